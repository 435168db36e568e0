"""The metrics that a run writes, and their measurement."""
