"""Sweeps: their runs done one after another, shared by any number of processes, and the fit to them."""
