"""A run's folder: its owner, the attempts at the run, and how a process ends."""
