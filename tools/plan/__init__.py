"""Predict what a training run takes: memory, arithmetic, traffic, time, disk."""
