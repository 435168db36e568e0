"""Checkpoints: ranges of named tensors, whole or absent, for any ZeRO stage and number of ranks."""
