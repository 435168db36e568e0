"""Aligning a block of the denoiser with a frozen picture encoder's features: settings, projectors, loss."""
