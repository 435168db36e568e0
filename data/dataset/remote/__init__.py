"""Datasets behind a URL: what is copied here, when, and how much of it is kept."""
