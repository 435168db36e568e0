"""A run's folder: whose it is, which attempt this is, and how a process ends."""
