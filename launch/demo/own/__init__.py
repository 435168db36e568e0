"""The demo on a person's own folder: what is chosen for it, and why."""
