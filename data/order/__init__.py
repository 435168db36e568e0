"""Which samples make up which step."""
