"""Ranks, the groups they form, and what they agree on."""
