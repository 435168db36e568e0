"""Scaling-law sweeps: the planned runs, their outcomes, the law fitted to them, and a page about it."""
