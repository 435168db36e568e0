"""Scaling-law sweeps: which runs, what they came to, the law that is fitted to them, and a page about it."""
