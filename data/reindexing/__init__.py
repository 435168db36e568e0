"""The index of a dataset, made again from its tars."""
