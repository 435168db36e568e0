"""Data that a cache holds beside latents: features of pictures, stills of last pictures."""
