"""Moving averages of the weights, one file a kind."""
