"""Job settings: declaring a field, explaining it in `--help`, reading it from files and overriding it."""
