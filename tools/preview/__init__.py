"""Samples and scores of a run's weights, made at intervals while it trains."""
