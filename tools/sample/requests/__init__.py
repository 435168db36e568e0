"""The requests of a sampling job, rows of a file or fields of its config, and the samples they ask for."""
