"""From a raw dataset to a latent cache, and reading it."""
