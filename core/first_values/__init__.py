"""The values that weights begin with, known range by range before any of them is in memory."""
