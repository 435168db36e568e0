"""The kinds of measurement of `evaluate`: each says what it would do, measures, and lays out the numbers."""
