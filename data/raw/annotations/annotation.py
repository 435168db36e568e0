"""Read what is known of a sample beside its pixels from the fields of a table row or of a JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from data.raw.annotations import several
from data.raw.annotations.label_values import label_and_class
from data.raw.annotations.roles import NOTHING, USUAL_COLUMNS, ColumnsConfig, by_role, is_nothing, role_of
from data.raw.annotations.several import Caption, CaptionError

LONGEST_BYTES = 1 << 20  # largest caption file
MARK = "\ufeff"  # a byte-order mark; tables that were joined have some within
NOT_A_TEXT = "a word for nothing ('nan', 'None', ...) instead of a caption, taken as none"
NOT_A_LABEL = "a word for nothing ('nan', 'None', ...) instead of a label, taken as none"
LABELS = {"label", "class"}  # roles that say the class of a sample


@dataclass(frozen=True, slots=True)
class Annotation:
    """Facts about a sample beside its pixels. refused: (stage, reason) if something is wrong with it.

    captions: all of them where they come from fields; `text` is the first.  notes: what is to be counted.
    unused: carriers of text that were passed over, since another was taken.  unread: fields without a role.
    """

    label: int = -1
    class_name: str = ""
    text: str = ""
    path: str = ""
    refused: tuple[str, str] | None = None
    captions: tuple[Caption, ...] = ()
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    unread: tuple[tuple[str, Any], ...] = ()


def from_fields(
    fields: Mapping[str, Any], columns: ColumnsConfig = USUAL_COLUMNS, *, one_text: bool = False
) -> Annotation:
    """Read path, text, label and class from a JSON object or a table row, by the roles of its fields.

    one_text: different texts in two fields are refused (stage `columns`), else they are several captions
    (see `several`).
    Where bytes were not UTF-8 strings hold surrogates; the sample is refused then.
    """
    fields = {n: v.strip(MARK) if isinstance(v, str) else v for n, v in fields.items()}
    found = by_role(fields, columns)
    nothing = {
        role_of(name, columns)
        for name, value in fields.items()
        if isinstance(value, str) and value.strip() in NOTHING
    }
    notes = (*([NOT_A_TEXT] if "text" in nothing else []), *([NOT_A_LABEL] if nothing & LABELS else []))
    try:
        path = _path(found["path"])
        captions = several.read(fields, found["text"], columns, one_text=one_text)
    except CaptionError as error:
        path = next((v for _, v in found["path"] if isinstance(v, str)), "")
        return Annotation(path=path, refused=(error.stage, str(error)))
    annotation = Annotation(path=path, notes=notes)
    try:
        label, class_name = label_and_class(found["label"], found["class"])
        annotation = replace(annotation, label=label, class_name=class_name)
    except CaptionError as error:
        class_name, annotation = "", replace(annotation, refused=(error.stage, str(error)))
    texts = tuple(caption.text for caption in captions)
    if any(len(text) > LONGEST_BYTES for text in texts):
        return replace(annotation, refused=("caption", f"text longer than {LONGEST_BYTES} characters"))
    for name, value in (("class", class_name), *(("text", text) for text in texts)):
        if not _is_unicode(value):
            return replace(annotation, class_name="", refused=("caption", f"{name} is not UTF-8"))
    return replace(annotation, text=texts[0] if texts else "", captions=captions)


def _path(found: list[tuple[str, Any]]) -> str:
    """Return the path that all filled fields agree on, "" if there is none.

    `{"bytes": null, "path": "0.jpg"}`, as Hugging Face writes a picture that stays a file, is that path.
    """
    paths = {name: _path_in(name, value) for name, value in found}
    for name, path in paths.items():
        if path != paths[found[0][0]]:
            raise CaptionError(
                f"{found[0][0]!r} and {name!r} differ; columns.path=NAME says which is meant", "columns"
            )
    return next(iter(paths.values()), "")


def _path_in(name: str, value: Any) -> str:
    if isinstance(value, Mapping) and set(value) <= {"bytes", "path"} and is_nothing(value.get("bytes")):
        value = value.get("path") or ""
    if isinstance(value, list | tuple) and len(value) == 1:
        return _path_in(name, value[0])
    if isinstance(value, list | tuple):
        raise CaptionError(f"{name} holds {len(value)} files, and a row is one sample", "list")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # of a file that is called by a number, without its suffix
    if not isinstance(value, str):
        raise CaptionError(f"{name} is no path but {type(value).__name__}", "list")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
