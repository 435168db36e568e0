"""Updating the weights: learning rates, parameter groups, and one file for each rule implemented here."""
