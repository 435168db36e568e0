"""Attention: one function, its backends, and the choice among them."""
