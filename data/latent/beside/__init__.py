"""What a cache holds of a sample beside its latents: features of pictures, stills of last ones."""
