"""Settings of jobs: how a field is declared, explained, read from files and overridden."""
