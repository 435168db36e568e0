"""Sampling tasks beside noise and conditions: known parts, a given start, windows of long clips."""
