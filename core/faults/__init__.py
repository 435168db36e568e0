"""What goes wrong during training, how it is noticed, and points at which tests make it go wrong."""
