"""Published networks that give features, the scores on them, and what a ruler says of each."""
