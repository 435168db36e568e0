"""Checkpoints: named tensors in ranges, whole or absent, for any ZeRO stage on any number of ranks."""
