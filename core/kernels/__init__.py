"""Kernels in Triton that stand for operations of `core/draws.py` and `core/diffusion`; asked for by name."""
