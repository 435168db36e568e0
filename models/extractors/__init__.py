"""Frozen networks that turn pictures into features, by which generated ones are compared with real ones."""
