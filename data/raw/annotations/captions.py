"""Read files that say what a picture shows: beside it in a folder, or members of its sample in a tar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from data.dataset.tars import TarSample, read_member
from data.media.unread_kinds import MARKED, mistaken_for
from data.raw.annotations.annotation import (
    LONGEST_BYTES,
    NOT_A_TEXT,
    Annotation,
    from_fields,
)
from data.raw.annotations.label_values import read_label
from data.raw.annotations.roles import USUAL_COLUMNS, ColumnsConfig, is_nothing, role_of
from data.raw.annotations.several import is_about_captions
from data.raw.annotations.text_encoding import Encoding, decoded, encoding_of, readings

# Suffixes of files with a caption, the one that wins first; `caption.txt` counts as its last part.
TEXT_SUFFIXES = ("txt", "caption", "prompt", "text")
NO_CAPTIONS = "none"  # of `captions`
SEVERAL_LINES = "caption file of several lines, taken as one caption"
OBJECT = "caption file that looks like JSON, taken as it is (as NAME.json its fields are read)"
LABEL_UNUSED = "a label in .json that differs from .cls, not used"


def carrier(suffix: str) -> Literal["text", "json", "cls"] | None:
    """Return what a file beside a picture holds, by its suffix (`txt`, `info.json`).

    None if it is not read.
    """
    last = suffix.rpartition(".")[2]
    if last in TEXT_SUFFIXES:
        return "text"
    return "json" if last == "json" else "cls" if last == "cls" else None


def read_tar_annotation(
    file: int,
    path: Path,
    sample: TarSample,
    columns: ColumnsConfig = USUAL_COLUMNS,
    captions: str = "",
    encoding: Encoding = "auto",
) -> Annotation:
    """Read the members of a WebDataset sample that say something (see `carrier`)."""
    found = {suffix: member for suffix, member in sample.members.items() if reads(suffix, captions)}
    if any(member.size > LONGEST_BYTES for member in found.values()):
        return Annotation(refused=("caption", f"caption longer than {LONGEST_BYTES} bytes"))
    contents = {suffix: read_member(file, path, member) for suffix, member in found.items()}
    return combined(contents, columns, captions, encoding)


def reads(suffix: str, captions: str = "") -> bool:
    """Return whether a file beside a picture is read. captions: the suffix that is named as text, if any."""
    return carrier(suffix) is not None or suffix == captions


def combined(
    contents: Mapping[str, bytes],
    columns: ColumnsConfig = USUAL_COLUMNS,
    captions: str = "",
    encoding: Encoding = "auto",
) -> Annotation:
    """Combine the bytes of the files beside a picture, by suffix, into one annotation.

    A file of text wins over a field of a JSON file, `cls` over its label; among files of text the first of
    TEXT_SUFFIXES that holds any. captions: the suffix that is taken instead.
    """
    if any(len(data) > LONGEST_BYTES for data in contents.values()):
        return Annotation(refused=("caption", f"caption longer than {LONGEST_BYTES} bytes"))
    fields: dict[str, Any] = {}
    texts: dict[str, str] = {}
    encodings = sorted({encoding_of(data, encoding).removesuffix("-sig") for data in contents.values()})
    notes = tuple(f"captions and labels in {name}" for name in encodings if name != "utf-8")
    try:
        for suffix in sorted(contents, key=_rank):
            text = decoded(contents[suffix], encoding)
            if what := mistaken_for(contents[suffix][:MARKED]):
                return Annotation(refused=("caption", f"no caption but {what}"))
            if carrier(suffix) == "text" or (suffix == captions and carrier(suffix) != "json"):
                texts[suffix] = text.strip()
            elif carrier(suffix) == "cls":
                fields["cls"] = text.strip()
            else:
                fields = {**json_object(text), **fields}
    except UnicodeDecodeError as error:
        hint = f"; {readings(error.object)}" if error.encoding == "utf-8" else ""
        return Annotation(refused=("caption", f"caption is not {_shown(error)} (byte {error.start}){hint}"))
    except (ValueError, RecursionError) as error:
        return Annotation(refused=("caption", f"bad JSON: {error}"))
    unread = tuple(
        (n, v) for n, v in fields.items() if role_of(n, columns) is None and not is_about_captions(n)
    )
    return replace(_chosen(fields, texts, columns, captions, notes), unread=unread)


def _chosen(
    fields: dict[str, Any],
    texts: dict[str, str],
    columns: ColumnsConfig,
    captions: str,
    notes: tuple[str, ...],
) -> Annotation:
    """Return the annotation of JSON `fields` and of `texts` by suffix, of which one is taken."""
    if "cls" in fields:
        fields, notes = _labelled(fields, columns, notes)
    filled = {suffix: text for suffix, text in texts.items() if not is_nothing(text)}
    from_json = captions == "json" or (not filled and captions in ("", NO_CAPTIONS))
    kept = {n: v for n, v in fields.items() if role_of(n, columns) != "path"}
    annotation = from_fields(kept, columns)
    in_json = {caption.text for caption in annotation.captions}
    if not from_json:
        kept = {n: v for n, v in kept.items() if role_of(n, columns) != "text" and not is_about_captions(n)}
        annotation = from_fields(kept, columns)
    if len(filled) < len(texts) and any(text for suffix, text in texts.items() if suffix not in filled):
        notes = (*notes, NOT_A_TEXT)
    notes += annotation.notes
    if from_json or annotation.refused:
        others = (suffix for suffix in filled if filled[suffix] not in in_json)
        return replace(annotation, notes=notes, unused=tuple(others))
    taken = captions or next(iter(filled), "")
    text = filled.get(taken, "")
    if text.startswith("{") and text.endswith("}"):
        notes = (*notes, OBJECT)
    if "\n" in text:
        notes = (*notes, SEVERAL_LINES)
    unused = [suffix for suffix in filled if suffix != taken and filled[suffix] != text]
    unused += ["json"] if in_json - {text} else []
    return replace(annotation, text=text, notes=notes, unused=tuple(unused))


def _labelled(
    fields: dict[str, Any], columns: ColumnsConfig, notes: tuple[str, ...]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return fields of which `cls` is the label unless it is empty, and a note where JSON has another."""
    rest = {name: value for name, value in fields.items() if name != "cls"}
    if is_nothing(fields["cls"]):
        return rest, notes
    others = {n: v for n, v in rest.items() if role_of(n, columns) == "label"}
    if any(_label(value) != _label(fields["cls"]) for value in others.values() if not is_nothing(value)):
        notes = (*notes, LABEL_UNUSED)
    kept = {n: v for n, v in rest.items() if n not in others}
    return {**kept, columns.label or "label": fields["cls"]}, notes


def _label(value: Any) -> object:
    """Return the number that a label stands for, else its words."""
    try:
        return read_label(value)
    except ValueError:
        return str(value).strip()


def _rank(suffix: str) -> tuple[int, int, str]:
    """Return the rank of a file beside a picture: by TEXT_SUFFIXES, plain suffixes before dotted ones."""
    last = suffix.rpartition(".")[2]
    place = TEXT_SUFFIXES.index(last) if last in TEXT_SUFFIXES else len(TEXT_SUFFIXES)
    return place, suffix.count("."), suffix


def json_object(text: str) -> dict[str, Any]:
    """Parse the fields of a sample; ValueError or RecursionError if they are no JSON object."""
    fields = json.loads(text, object_pairs_hook=without_repetition)
    if not isinstance(fields, dict):
        raise ValueError("JSON is not an object")
    return fields


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields of a JSON object; ValueError where one is there twice: JSON would keep the last."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in fields if names.count(name) > 1)
        raise ValueError(f"the field {twice[:40]!r} is there twice")
    return fields


def _shown(error: UnicodeDecodeError) -> str:
    return error.encoding.upper().removesuffix("-SIG")
