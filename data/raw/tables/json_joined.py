"""Rows of JSON objects that hold lists: of samples, or of media and of texts that name them by number."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from data.raw.annotations.roles import role_of
from data.raw.tables.table_columns import files_in

Objects = list[dict[str, Any]]
# (list of media, list of texts, number of a medium there, in a text, its file)
JOINED = (
    ("images", "annotations", "id", "image_id", "file_name"),  # COCO's captions
    ("videos", "sentences", "video_id", "video_id", "video_id"),  # MSR-VTT, whose files are called by number
)
CAPTION = "caption"
SENTENCES, RAW = "sentences", "raw"  # of an image, in the splits of Karpathy for COCO and Flickr


def rows_in(content: Mapping[str, Any]) -> Objects | None:
    """Return rows of an object that holds lists of objects, None if it is in no such form.

    Read are COCO's captions, MSR-VTT, Karpathy's splits, objects with one list that names files, and one that
    is itself a sample, as HunyuanVideo has a file for each.
    """
    if _names_media(content) and any(re.search("caption|prompt", name, re.I) for name in content):
        return [dict(content)]
    lists = {name: value for name, value in content.items() if _are_objects(value)}
    for media, texts, own, theirs, file in JOINED:
        if media in lists and texts in lists and CAPTION in lists[texts][0] and own in lists[media][0]:
            return _joined(lists[media], lists[texts], own, theirs, file)
    naming = [rows for rows in lists.values() if _names_media(rows[0])]
    if len(naming) != 1 or (naming[0] is lists.get("images") and "annotations" in content):
        return None
    return [_of_karpathy(row) if _are_objects(row.get(SENTENCES)) else row for row in naming[0]]


def _names_media(row: Mapping[str, Any]) -> bool:
    """Return whether a field that is called as paths are names a picture or film."""
    return any(role_of(name) == "path" and any(True for _ in files_in(value)) for name, value in row.items())


def _joined(media: Objects, texts: Objects, own: str, theirs: str, file: str) -> Objects:
    """Return a row for each medium, with all captions that name it, in their order."""
    captions: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        captions[str(text.get(theirs))].append(text.get(CAPTION) or "")
    return [
        {
            **{k: v for k, v in row.items() if role_of(k) != "path"},
            "path": row.get(file),
            "captions": captions.get(str(row.get(own)), []),
        }
        for row in media
    ]


def _of_karpathy(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of an image whose sentences are objects, each with the text in `raw`."""
    folder = f"{row['filepath']}/" if isinstance(row.get("filepath"), str) else ""
    captions = [sentence.get(RAW) or "" for sentence in row[SENTENCES]]
    kept = {name: value for name, value in row.items() if name not in (SENTENCES, "filename", "filepath")}
    return {**kept, "path": f"{folder}{row.get('filename')}", "captions": captions}


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) for part in value)
