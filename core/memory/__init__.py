"""How much memory training takes, how much there is, and the micro-batch that fits."""
