"""What updates weights: learning rates, parameter groups, and one file for each rule of our own."""
