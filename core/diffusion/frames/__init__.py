"""Noise levels of single frames of a clip, in training and in sampling."""
