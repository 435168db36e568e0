"""What is known of a sample beside its pixels: texts, labels, and where they are written."""
