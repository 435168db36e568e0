"""Frozen networks that turn pictures into features: for scores, and for a denoiser to be aligned with."""
