"""The numbers that a run writes, and what measures them."""
