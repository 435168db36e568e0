"""Denoising networks, one file a network."""
