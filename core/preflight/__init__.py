"""Check every node of a submitted job before it trains: its equipment, its speed, and differences."""
