"""Class, label and text that stand beside a picture: sidecar files, members of a tar, rows of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from core.files import regular
from data.dataset.tars import TarSample, read_member

LONGEST_BYTES = 1 << 20  # of one caption file
LARGEST_LABEL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is known of a sample beside its pixels. refused: (stage, reason) if something is wrong with it."""

    label: int = -1
    class_name: str = ""
    text: str = ""
    path: str = ""
    refused: tuple[str, str] | None = None


def from_fields(fields: Mapping[str, Any]) -> Annotation:
    """Read `label`, `class`, `text` (or `caption`) and `path` from a JSON object or a table row.

    A label that is no number is taken as a class name. Where bytes were not UTF-8 strings hold surrogates;
    the sample is refused then.
    """
    texts = {name: fields.get(name) for name in ("class", "text", "caption", "path")}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            if name == "class" and isinstance(value, int):
                texts[name] = str(value)
                continue
            return Annotation(refused=("caption", f"{name} is not a text but {type(value).__name__}"))
    class_name, text = texts["class"] or "", texts["text"] or texts["caption"] or ""
    path = texts["path"] or ""
    if len(text) > LONGEST_BYTES:
        return Annotation(path=path, refused=("caption", f"text longer than {LONGEST_BYTES} characters"))
    annotation = Annotation(class_name=class_name.strip(), text=text, path=path)
    try:
        annotation = replace(annotation, label=read_label(fields.get("label")))
    except ValueError as error:
        if class_name or not isinstance(fields.get("label"), str):
            return replace(annotation, refused=("caption", str(error)))
        annotation = replace(annotation, class_name=str(fields["label"]).strip())
    for name, value in (("class", annotation.class_name), ("text", text)):
        if not _is_unicode(value):
            return replace(annotation, class_name="", text="", refused=("caption", f"{name} is not UTF-8"))
    return annotation


def read_label(value: Any) -> int:
    """A class number; None and the empty text are -1 (none). ValueError for what is no whole number."""
    if value is None or value == "":
        return -1
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"label {value!r} is not a whole number")
    try:
        label = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"label {str(value)[:40]!r} is not a whole number") from None
    if not -1 <= label <= LARGEST_LABEL:
        raise ValueError(f"label {label} is out of range")
    return label


def read_sidecars(source: Path, name: str, present: set[str], used: set[str]) -> Annotation:
    """Read `STEM.json` and `STEM.txt` beside the file `name` if they are `present`; notes them in `used`."""
    contents = {}
    stem = PurePosixPath(name).with_suffix("")
    for suffix in (".json", ".txt"):
        sidecar = f"{stem}{suffix}"
        if sidecar in present:
            used.add(sidecar)
            try:
                with open(source / sidecar, "rb", opener=regular) as file:
                    contents[suffix[1:]] = file.read(LONGEST_BYTES + 1)
            except OSError as error:
                return Annotation(refused=("caption", f"{sidecar}: {error.strerror}"))
    return combined(contents)


def read_tar_annotation(file: int, path: Path, sample: TarSample) -> Annotation:
    """Read the members `json`, `txt` and `cls` of a WebDataset sample."""
    found = {suffix: sample.members[suffix] for suffix in ("json", "txt", "cls") if suffix in sample.members}
    if any(member.size > LONGEST_BYTES for member in found.values()):
        return Annotation(refused=("caption", f"caption longer than {LONGEST_BYTES} bytes"))
    return combined({suffix: read_member(file, path, member) for suffix, member in found.items()})


def combined(contents: Mapping[str, bytes]) -> Annotation:
    """One annotation from the bytes of `json`, `txt` and `cls` files; the last two win over the first."""
    if any(len(data) > LONGEST_BYTES for data in contents.values()):
        return Annotation(refused=("caption", f"caption longer than {LONGEST_BYTES} bytes"))
    try:
        decoded = {suffix: data.decode("utf-8") for suffix, data in contents.items()}
        fields = json.loads(decoded["json"]) if "json" in decoded else {}
        if not isinstance(fields, dict):
            raise ValueError("JSON is not an object")
    except UnicodeDecodeError as error:
        return Annotation(refused=("caption", f"caption is not UTF-8 (byte {error.start})"))
    except (ValueError, RecursionError) as error:
        return Annotation(refused=("caption", f"bad JSON: {error}"))
    if "txt" in decoded:
        fields = {**fields, "text": decoded["txt"].strip()}
    if "cls" in decoded:
        fields = {**fields, "label": decoded["cls"].strip()}
    return from_fields({key: value for key, value in fields.items() if key != "path"})


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
