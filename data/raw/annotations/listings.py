"""Find out whether a file that nothing reads may hold captions or labels, by its name and content."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from pathlib import PurePosixPath

from data.media.formats import READ_SUFFIXES
from data.raw.annotations.roles import MAY_MISS, NO_TEXT, MayMiss, looks_like
from data.raw.annotations.split_names import is_split
from data.raw.annotations.text_encoding import encoding_of, is_text

LISTS = (".txt", ".lst", ".list", ".token", ".dat", ".captions", ".labels")  # a line a picture
LISTINGS = (*LISTS, ".json", ".yaml", ".yml", ".xml", "")
# Files that may hold the captions of a whole source in a form that nothing here reads, by suffix and stem.
TEXT_FILES = (".txt", ".json", ".yaml", ".yml", ".xml", ".toml", ".arrow", ".feather")
DATA_FILES = (".pkl", ".pickle", ".npy", ".npz", ".pt", ".db", ".h5", ".mat")
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")  # tables for persons, whatever they are called
TABLES_UNREAD = (".feather", ".orc", ".avro", ".sqlite", ".sqlite3")  # likewise, for programs
DOCUMENTS = ("docx", "doc", "odt", "rtf", "pdf")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")  # also a single file
PACKED = (*COMPRESSED, ".7z", ".rar")
ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
CAPTIONS_FILE = re.compile(r"caption|prompt|metadata|annotation|descri|^text|^tags")
LABELS_FILE = re.compile(r"^labels?$")
A_TABLE = "a table as docs/datasets.md has it"
WAYS = {
    **dict.fromkeys((*LISTS, ""), "the suffix .csv or .tsv, and a first line such as path,text"),
    **dict.fromkeys(SHEETS, "saving it as .csv"),
    **dict.fromkeys(PACKED, "unpacking it"),
    **dict.fromkeys((".arrow", *TABLES_UNREAD), "writing it as .parquet"),
}
_ENDINGS = "|".join(suffix.removeprefix(".") for suffix in READ_SUFFIXES)
_NAMED = re.compile(rf"(?:\w+:/*)?[^\s\"',;|:]+\.(?:{_ENDINGS})\b", re.IGNORECASE)
_OF_BOXES = ("annotation", "annotations")  # around the boxes of one picture in Pascal VOC
_FIRST = re.compile(r"[^\s,;|:=#]+")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?')  # of JSON, and whether it is a key
_WORD = re.compile(r"[^\W\d_]")
_NUMBER = re.compile(r"\d")
_OF_SAMPLES = re.compile(r"caption|prompt|sentence", re.IGNORECASE)
_KEY = re.compile(r'"(\w+)"\s*:')
_KEYS_OF = {  # of other formats than JSON
    **dict.fromkeys((".yaml", ".yml"), re.compile(r"""^[\s-]*["']?(\w+)["']?\s*:(?:\s|$)""", re.MULTILINE)),
    ".xml": re.compile(r"""<(\w+)|(\w+)\s*=\s*["']"""),
}


def file_roles(
    name: str, begins: Callable[[], bytes], stems: Container[str], *, is_looked_into: bool
) -> set[MayMiss]:
    """Return the roles that a file may fill by its name or first bytes.

    stems: names of samples without suffix.  is_looked_into: whether one of an unusual suffix is opened.
    """
    path = PurePosixPath(name)
    suffix, stem = path.suffix.lower(), path.stem.lower()
    if suffix in (*SHEETS, *TABLES_UNREAD):
        return {"text"}
    if suffix in LISTINGS:
        roles = listing_roles(begins(), suffix, stems)
    elif is_looked_into and suffix[1:] not in NO_TEXT and is_text(head := begins()):
        roles = listing_roles(head, "", stems)
        roles |= {"text"} if CAPTIONS_FILE.search(stem) else set()
    else:
        roles = set[MayMiss]()
    if suffix in (*TEXT_FILES, *DATA_FILES, *PACKED):
        roles |= {"text"} if CAPTIONS_FILE.search(stem) else {"label"} if LABELS_FILE.search(stem) else set()
    return roles


def companion_roles(suffix: str, begins: Callable[[], bytes]) -> tuple[set[MayMiss], str]:
    """Return the roles that a file beside a picture may fill that nothing reads, and what takes it."""
    last = suffix.rpartition(".")[2]
    if last in DOCUMENTS:
        return {"text"}, "saving it as .txt"
    if last in NO_TEXT or not is_text(begins()):
        return set(), ""
    if looks_like("label", last):
        return {"label"}, "the suffix .cls"
    if last == "xmp":
        return {"text"}, "a .txt of what each .xmp says of its picture"
    return {"text"}, f"captions={suffix}"


def lists_splits(begins: bytes, suffix: str) -> bool:
    """Return whether a file lists what belongs to which split, `{"train": [...], "test": [...]}`."""
    text = begins.decode(encoding_of(begins), errors="replace")
    keys = {"".join(found).lower() for found in _KEYS_OF.get(suffix, _KEY).findall(text)}
    return sum(map(is_split, keys)) > 1


def listing_roles(begins: bytes, suffix: str = "", stems: Container[str] = ()) -> set[MayMiss]:
    """Return the roles that a file may fill by its first bytes: it names pictures, and says more of them.

    In JSON, YAML and XML the keys decide (`{"labels": [["0.png", 3], ...]}`); one such as `caption` does so
    without names of pictures. Elsewhere most lines, remarks (`#`) apart, must name a picture; words beside
    it may be a caption, a number alone a label. A list of nothing but names fills none. Lines may begin with
    one of `stems` as well, and sentences in JSON count where their keys say nothing.
    """
    text = begins.decode(encoding_of(begins), errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    named = [rest for line in lines if (rest := _beside_name(line, stems)) is not None]
    keys = ["".join(found) for found in _KEYS_OF.get(suffix, _KEY).findall(text)]
    keys = [key for key in keys if not (suffix == ".xml" and key.lower() in _OF_BOXES)]
    if named and keys:
        roles = {role for role in MAY_MISS if any(looks_like(role, key) for key in keys)}
        sentences = sum(
            len(value.split()) > 1 and bool(_WORD.search(value))
            for value, key in _STRING.findall(text)
            if not key
        )
        is_told = suffix == ".json" and 1 < 2 * sentences >= len(_NAMED.findall(text)) > 1
        return roles or ({"text"} if is_told else set())
    if any(map(_OF_SAMPLES.search, keys)):
        return {"text"}  # of samples that are called by number, as MSR-VTT's
    if 2 * len(named) <= len(lines) or suffix in _KEYS_OF:
        return set()
    if any(map(_WORD.search, named)):
        return {"text"}
    return {"label"} if any(map(_NUMBER.search, named)) else set()


def _beside_name(line: str, stems: Container[str]) -> str | None:
    """Return what a line says beside the name of a picture, None if it names none."""
    if _NAMED.search(line):
        return _NAMED.sub(" ", line)
    first = _FIRST.search(line)
    return line[first.end() :] if first and first[0] in stems else None
