"""What a run takes of a rank: counted, and settled by what is free, before anything is built."""
