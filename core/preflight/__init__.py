"""Look at every node of a submitted job before it trains: what is there, how fast it is, what is unlike."""
