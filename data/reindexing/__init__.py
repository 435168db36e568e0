"""Rebuild the index of a dataset from its tars."""
