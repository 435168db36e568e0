"""The order of training: which samples make up which step."""
