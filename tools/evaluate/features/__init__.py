"""Measures on features of many samples, computed in blocks so that memory stays bounded."""
