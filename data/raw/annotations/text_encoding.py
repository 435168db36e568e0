"""Decode the bytes of captions and tables to text: byte-order marks, UTF-16, and the setting `encoding`."""

from __future__ import annotations

import codecs
from typing import Literal

Encoding = Literal[
    "auto", "utf-8", "utf-16", "latin-1", "cp1252", "cp1251", "shift-jis", "gb18030", "big5", "euc-kr"
]
# Python's names where they are others; those of Windows hold more letters.
_CODECS = {"utf-16": "utf-16-le", "shift-jis": "cp932", "euc-kr": "cp949"}
_OTHERS = ("cp1252", "latin-1", "cp1251", "shift-jis", "gb18030", "big5", "euc-kr")  # than Unicode's
_MARKS = (  # UTF-32's marks begin like those of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LOOKED_AT = 4096  # bytes
SHOWN = 8  # letters before one that is not ASCII, and from it on


def encoding_of(head: bytes, encoding: Encoding = "auto") -> str:
    """Return the name by which Python decodes text that begins with `head`.

    A byte-order mark decides; then `encoding`, if it is not `auto`; then text of which every second byte is
    zero is UTF-16; all else is UTF-8. Latin-1, code pages and the like are never guessed: nearly any bytes
    are valid in them, so a guess could not be found wrong.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    if encoding != "auto":
        return _CODECS.get(encoding, encoding)
    head = head[:LOOKED_AT]
    pairs = len(head) // 2
    if pairs and head[1::2].count(0) > 0.4 * pairs and not head[::2].count(0):
        return "utf-16-le"
    if pairs and head[::2].count(0) > 0.4 * pairs and not head[1::2].count(0):
        return "utf-16-be"
    return "utf-8"


def decoded(data: bytes, encoding: Encoding = "auto") -> str:
    """Decode text without its byte-order mark; UnicodeDecodeError if the bytes are of another encoding."""
    return data.decode(encoding_of(data, encoding))


def is_utf8(data: bytes) -> bool:
    """Return whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def readings(data: bytes) -> str:
    """Say what bytes that are no UTF-8 are by other values of `encoding`, for a person to choose from.

    What is a little before the first of them is shown too.
    """
    data = data[_shortly_before_other_bytes(data) :]
    found: dict[str, str] = {}
    for name in _OTHERS:
        decoder = codecs.getincrementaldecoder(_CODECS.get(name, name))()
        try:
            text = decoder.decode(data[:LOOKED_AT], final=len(data) <= LOOKED_AT)
        except UnicodeDecodeError:
            continue
        at = next((at for at, letter in enumerate(text) if not letter.isascii()), 0)
        shown = " ".join(text[max(0, at - SHOWN) : at + SHOWN].split())
        if shown.isprintable():
            found.setdefault(shown, name)
    ways = [f"{name} reads {shown!r}" for shown, name in found.items()]
    return f"encoding={', '.join(ways)}" if ways else "write it as UTF-8"


def _shortly_before_other_bytes(data: bytes) -> int:
    """Return a place in ASCII text at most a few letters before the first byte that is no UTF-8."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = max(0, error.start - SHOWN)
        while place and data[place - 1] >= 0x80:  # a letter of several bytes is not cut
            place -= 1
        return place
    return 0


def is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are printable text in one of the encodings."""
    try:
        text = codecs.getincrementaldecoder(encoding_of(head))("strict").decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text.strip()) and all(letter.isprintable() or letter in "\r\n\t\f" for letter in text)
