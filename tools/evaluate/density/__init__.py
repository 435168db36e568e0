"""Likelihood and variational bound of the samples of a latent cache."""
