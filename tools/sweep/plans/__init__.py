"""Kinds of sweeps: which runs there are, each in one file."""
