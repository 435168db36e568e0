"""A picture encoder's features beside latents: what is encoded of a sample, and reading them for training."""
