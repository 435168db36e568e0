"""Annotations of samples: texts and labels, and where they are written."""
