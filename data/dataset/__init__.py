"""A finished dataset folder, raw or latent, here or behind a URL."""
