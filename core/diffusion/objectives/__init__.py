"""The losses that a denoiser may be trained with, one a file, and what they share."""
