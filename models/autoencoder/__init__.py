"""Autoencoders for images and clips: this project's causal one, and public ones."""
