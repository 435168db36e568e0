"""A finished run or its samples, as other jobs open them."""
