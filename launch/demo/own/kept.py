"""Names of the files that a demo of a folder keeps in its output, and whether captions can be embedded."""

from __future__ import annotations

import importlib.util

CHOICE = "choice.json"  # what was chosen
WORDS = "words"  # the text encoder made of the captions
PROMPTS = "prompts.txt"


def can_read_words() -> bool:
    """Return whether the library is there that reads text encoders."""
    return importlib.util.find_spec("transformers") is not None
