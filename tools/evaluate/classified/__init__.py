"""Scores by a classifier that is trained on the spot: what is kept of samples, its training, the verdicts."""
