"""What shows a run elsewhere than in its own files: a kind a file, the table in `kinds`."""
