"""The job `train`: a denoiser."""
