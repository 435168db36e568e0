"""Model cards: what weights are, from which data and recipe, and how they scored, filled from the records."""
