"""Layouts of weights that other projects publish: a file each, and their list in `kinds`."""
