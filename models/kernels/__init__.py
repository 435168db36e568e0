"""Kernels in Triton for functions of `models/layers`, which are their plain twins; asked for by name."""
