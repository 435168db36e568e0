"""Classifiers of noisy latents: the one that guides samples, and its training on a run's latents."""
