"""Work that any number of processes share through a folder."""
