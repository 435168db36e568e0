"""Roles of the columns of a table, or fields of a JSON file: path, text, label."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.config.settings import setting
from core.errors import UserError

Role = Literal["path", "text", "label", "class"]
MayMiss = Literal["text", "label"]  # roles that a dataset may do without
MAY_MISS: tuple[MayMiss, ...] = ("text", "label")
# Case, spaces, `_` and `-` are ignored; where a row fills several of a role the first of the list is shown.
USUAL: dict[Role, tuple[str, ...]] = {
    "path": (
        *("path", "file_name", "image", "video", "image_path", "video_path", "media_path", "media"),
        *("file_path", "image_file_name", "video_file_name"),
        *("jpg", "jpeg", "png", "webp", "mp4", "webm", "gif"),  # members of a WebDataset sample as columns
    ),
    "text": ("text", "caption", "captions", "prompt", "cap", "txt"),
    "label": ("label",),
    "class": ("class", "class_name", "category", "cls"),
}
MOST_LETTERS, MOST_COLUMNS = 60, 40  # of names of columns, shown
JSON = "json"  # a column that holds objects with fields of their own, as of WebDataset samples
# Texts that Python, pandas, R, databases and spreadsheets write for a missing value.
NOTHING = {
    *("nan", "NaN", "NAN", "-nan", "-NaN", "1.#QNAN", "-1.#IND", "<NA>", "NA", "N/A", "n/a", "#NA"),
    *("None", "NULL", "null", r"\N", "undefined", "[]", "{}", "()", "[None]", "[nan]", "''", '""'),
    *("#N/A", "#N/A N/A", "#NULL!", "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!"),  # Excel's
}
_LIKE_TEXT = re.compile(r"caption|prompt|text|descri|title|\balt\b|tags?$|^cap|sentence|annotation")
# Suffixes of programs and arrays, which may well begin with readable bytes.
NO_TEXT = {
    *("py", "pyc", "pyd", "so", "dll", "exe", "sh", "js", "svg"),
    *("pickle", "pkl", "pt", "pth", "ckpt", "bin", "npy", "npz", "safetensors"),
    *("aae", "dvc", "lrprev", "md5", "sha1", "sha256"),  # edits, pointers, previews, checksums of pictures
}
_LIKE_LABEL = re.compile(r"label|class|categor|^target$|species")


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig:
    """Columns by name, where they have other names than the usual ones, or several could be meant."""

    path: str = setting(
        "", "column with the file, relative to the table; empty: the usual names", shown="name"
    )
    text: str = setting(
        "",
        "column with the caption, or several columns, whose captions are all kept; empty: the usual names",
        shown="NAME[+NAME]",
    )
    label: str = setting("", "column with class number or name; empty: the usual names", shown="name")

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that `text` names."""
        return tuple(name.strip() for name in self.text.split("+") if name.strip())

    @property
    def names_texts(self) -> bool:
        """Whether several columns hold captions of one sample, which are called by their columns."""
        return len(self.texts) > 1

    def given(self) -> dict[Role, str]:
        """Return the roles whose column is named."""
        named: dict[Role, str] = {"path": self.path, "text": self.text, "label": self.label}
        return {role: name for role, name in named.items() if name}


USUAL_COLUMNS = ColumnsConfig()


def plain(name: str) -> str:
    """Return a column's name in the form in which names are compared."""
    return re.sub(r"[\s_-]+", "", name.removeprefix("\ufeff")).casefold()


_ROLES: dict[str, Role] = {plain(name): role for role, names in USUAL.items() for name in names}
_RANK = {plain(name): rank for names in USUAL.values() for rank, name in enumerate(names)}


@functools.lru_cache(maxsize=4096)  # asked for every field of every row
def role_of(name: str, columns: ColumnsConfig = USUAL_COLUMNS) -> Role | None:
    """Return the role of a column, None for one that is not read."""
    given = columns.given()
    for role, wanted in given.items():
        if plain(name) in map(plain, columns.texts if role == "text" else (wanted,)):
            return role
    role_by_name = _ROLES.get(plain(name))
    if role_by_name in given or (role_by_name == "class" and "label" in given):
        return None
    return role_by_name


@functools.cache
def _ranks(columns: ColumnsConfig) -> dict[str, int]:
    """Return {plain name: place among the columns of its role}."""
    return _RANK | {plain(name): rank for rank, name in enumerate(columns.texts)}


def by_role(
    fields: Mapping[str, Any], columns: ColumnsConfig = USUAL_COLUMNS
) -> dict[Role, list[tuple[str, Any]]]:
    """Return (name, value) of the filled fields of each role, the usual names in their order."""
    found: dict[Role, list[tuple[str, Any]]] = {"path": [], "text": [], "label": [], "class": []}
    for name, value in fields.items():
        role = role_of(name, columns)
        if role and not is_nothing(value):
            found[role].append((name, value))
    ranks = _ranks(columns)
    for filled in found.values():
        filled.sort(key=lambda pair: ranks.get(plain(pair[0]), 0))
    return found


def is_nothing(value: Any) -> bool:
    """Return whether a value stands for none: null, NaN, the empty text, or a word written for them."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    return isinstance(value, str) and (not value.strip() or value.strip() in NOTHING)


def require_columns(table: object, names: Iterable[str], columns: ColumnsConfig) -> None:
    """Raise UserError unless the table has a column for the path and every column that `columns` names."""
    names = list(names)
    shown = ", ".join(name[:MOST_LETTERS] or "''" for name in names[:MOST_COLUMNS]) or "none"
    shown += f" and {len(names) - MOST_COLUMNS} more" if len(names) > MOST_COLUMNS else ""
    for role, wanted in columns.given().items():
        for column in columns.texts if role == "text" else (wanted,):
            if plain(column) not in map(plain, names):
                raise UserError(f"columns.{role}", column, f"a column of {table}; it has: {shown}")
    if not any(role_of(name, columns) == "path" for name in names):
        usual = " ".join(USUAL["path"])
        urls = next((f"; img2dataset or video2dataset fetch those in {n!r}" for n in names if is_url(n)), "")
        raise UserError(
            f"{table}: the column 'path' is missing; it has: {shown} (the first line names the columns; "
            f"taken as path are: {usual}; columns.path=NAME takes another{urls})"
        )
    if double := sorted({name for name in names if list(map(plain, names)).count(plain(name)) > 1} - {""}):
        raise UserError(f"{table}: the column {double[0]!r} is there twice; rename one")


def is_url(name: str) -> bool:
    """Return whether a column is called as those of URLs are."""
    return bool(re.fullmatch(r"(image|video|media|content)?urls?", plain(name)))


def looks_like(role: MayMiss, name: str, values: Iterable[Any] = ()) -> bool:
    """Return whether an unread column may fill the missing role, by its name or by the sentences in it."""
    if role == "label":
        return bool(_LIKE_LABEL.search(name.casefold()))
    values = list(values)
    if any(_LIKE_TEXT.search(key.casefold()) for key in (name, *_keys_in(values))):
        return True
    filled = [texts for value in values if (texts := _texts_in(value))]
    several = sum(any(_has_words(text) for text in texts) for texts in filled)
    return bool(filled) and 2 * several > len(filled)


def _has_words(text: str) -> bool:
    """Return whether a text has two words with letters, which a date has not."""
    return sum(any(map(str.isalpha, word)) for word in text.split()) > 1


def _keys_in(values: Iterable[Any]) -> set[str]:
    """Return the names of the fields of values that are objects."""
    return {str(key) for value in values if isinstance(value, Mapping) for key in value}


def _texts_in(value: Any, depth: int = 3) -> list[str]:
    """Return the texts in a value, also in lists and objects as of conversations."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    inner = list(value.values()) if isinstance(value, Mapping) else value
    if depth == 0 or not isinstance(inner, list | tuple):
        return []
    return [text for part in inner for text in _texts_in(part, depth - 1)]


def may_fill(values: Iterable[Any]) -> set[MayMiss]:
    """Return the roles that values beside names of pictures may fill.

    Sentences are captions, single words captions or classes, whole numbers labels.
    """
    texts = [str(value).strip() for value in values if not is_nothing(value)]
    if not texts or all(re.fullmatch(r"[-+]?[0-9]*\.?[0-9]*([eE][-+]?[0-9]+)?", text) for text in texts):
        whole = texts and all(re.fullmatch(r"[0-9]+(\.0*)?", text) for text in texts)
        return {"label"} if whole else set()
    sentences = sum(len(text.split()) > 1 for text in texts)
    return {"text"} if 2 * sentences > len(texts) else {"text", "label"}
