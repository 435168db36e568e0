"""What samples are made from beside noise and conditions: known parts, a start, windows of long clips."""
