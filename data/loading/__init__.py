"""The batches that a rank gets."""
