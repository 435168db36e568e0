"""Find out whether a file that nothing reads lists pictures together with captions or labels."""

from __future__ import annotations

import re

from data.media.formats import READ_SUFFIXES
from data.raw.annotations.roles import MAY_MISS, MayMiss, looks_like
from data.raw.annotations.text_encoding import encoding_of

LISTS = (".txt", ".lst", ".list", ".token", ".dat", ".captions", ".labels")  # a line a picture
LISTINGS = (*LISTS, ".json", ".yaml", ".yml", ".xml", "")
_ENDINGS = "|".join(suffix.removeprefix(".") for suffix in READ_SUFFIXES)
_NAMED = re.compile(rf"[^\s\"',;|:]+\.(?:{_ENDINGS})\b", re.IGNORECASE)
_OF_BOXES = ("annotation", "annotations")  # around the boxes of one picture in Pascal VOC
_WORD = re.compile(r"[^\W\d_]")
_NUMBER = re.compile(r"\d")
_OF_SAMPLES = re.compile(r"caption|prompt|sentence", re.IGNORECASE)
_KEY = re.compile(r'"(\w+)"\s*:')
_KEYS_OF = {  # of other formats than JSON
    **dict.fromkeys((".yaml", ".yml"), re.compile(r"""^[\s-]*["']?(\w+)["']?\s*:(?:\s|$)""", re.MULTILINE)),
    ".xml": re.compile(r"""<(\w+)|(\w+)\s*=\s*["']"""),
}


def listing_roles(begins: bytes, suffix: str = "") -> set[MayMiss]:
    """Return the roles that a file may fill by its first bytes: it names pictures, and says more of them.

    In JSON, YAML and XML the keys decide (`{"labels": [["0.png", 3], ...]}`); one such as `caption` does so
    without names of pictures. Elsewhere most lines, remarks (`#`) apart, must name a picture; words beside
    it may be a caption, a number alone a label. A list of nothing but names fills none.
    """
    text = begins.decode(encoding_of(begins), errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    named = [_NAMED.sub(" ", line) for line in lines if _NAMED.search(line)]
    keys = ["".join(found) for found in _KEYS_OF.get(suffix, _KEY).findall(text)]
    keys = [key for key in keys if not (suffix == ".xml" and key.lower() in _OF_BOXES)]
    if named and keys:
        return {role for role in MAY_MISS if any(looks_like(role, key) for key in keys)}
    if any(map(_OF_SAMPLES.search, keys)):
        return {"text"}  # of samples that are called by number, as MSR-VTT's
    if 2 * len(named) <= len(lines) or suffix in _KEYS_OF:
        return set()
    if any(map(_WORD.search, named)):
        return {"text"}
    return {"label"} if any(map(_NUMBER.search, named)) else set()
