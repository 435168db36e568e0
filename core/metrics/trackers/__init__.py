"""Trackers, which show a run outside of its own files: one file a kind, the table in `kinds`."""
