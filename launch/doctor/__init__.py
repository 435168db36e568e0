"""Look at a machine, or at the record of a run, and say what is missing or went wrong, and what to do."""
