"""Solvers from noise to data: pure functions of a denoiser, a start, a grid of times and draws."""
