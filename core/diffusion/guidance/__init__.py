"""Guidance: what a sampler makes of several outputs of networks, or of a classifier's gradient."""
