"""Layouts of sources: each recognises the files that are its own, and makes samples of them."""
