"""Sources of a few files for tests of layouts, and what a listing says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from data.raw.ingest import Listing, list_source
from data.raw.rules import SourceRules
from tests.data.samples import image_bytes, picture, tar_bytes

PNG = image_bytes(picture())
APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(120)


def place(root: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def told(listing: Listing) -> dict[str, tuple[str, str]]:
    return {item.name: (item.class_name, item.text) for item in listing.items}


def listed(root: Path, files: Mapping[str, str | bytes], **rules: object) -> Listing:
    return list_source(place(root, files), SourceRules(**rules))  # type: ignore[arg-type]


def pictures(*names: str) -> dict[str, str | bytes]:
    return dict.fromkeys(names, PNG)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def tar(members: Mapping[str, str | bytes]) -> bytes:
    return tar_bytes([(n, d.encode() if isinstance(d, str) else d) for n, d in members.items()])
