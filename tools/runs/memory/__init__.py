"""Memory of a run on a rank: counted, and settings chosen by what is free, before anything is built."""
