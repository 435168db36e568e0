"""What a sampling job is asked for: rows of a file or fields of its config, and the samples of these."""
