"""The job `encode`: a latent cache from a raw dataset."""
