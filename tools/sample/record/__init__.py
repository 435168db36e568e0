"""The record of what a sampling job was begun with, and the checks that a continued job still matches it."""
