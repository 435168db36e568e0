"""Classifiers of noisy latents, which guide samples to a class: networks, their folders and training."""
