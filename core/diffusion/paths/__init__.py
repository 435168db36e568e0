"""Paths from data to noise: x_t = alpha(t) x_0 + sigma(t) noise, t = 0 is data and t = 1 is noise."""
