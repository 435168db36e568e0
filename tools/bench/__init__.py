"""Benchmarks of this machine's limits, of this project, and of other libraries beside it."""
