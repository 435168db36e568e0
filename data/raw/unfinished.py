"""What an unfinished raw dataset records: its listing and receipts, by which a killed job continues."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from core.errors import UserError
from core.files import canonical, temporaries, write_json
from core.reading import json_files
from core.run.ways_out import holds, ways_out
from data.raw.item import Item

RECEIPTS = ".receipts"  # inside the output, until it is complete
LISTING = "listing.json"


class _Listing(TypedDict):
    fingerprint: str


def begin(folder: Path, items: Sequence[Item]) -> None:
    """Record which listing this output is made of, and remove what killed writers left.

    UserError if an earlier attempt began with another listing: its shards would not fit those to come.
    """
    seen, before = listing_fingerprint(items), recorded_listing(folder)
    if before not in (None, seen):
        cost = ways_out(holds(folder), "the old content")
        raise UserError(f"{folder}: its source changed since this output was begun; {cost}")
    for place in (folder, folder / RECEIPTS):
        for left in temporaries(place):
            left.unlink()
    if before is None:
        write_json(folder / RECEIPTS / LISTING, {"fingerprint": seen})


def listing_fingerprint(items: Iterable[Item]) -> str:
    """Identify a listing, wherever its source lies: `core.files.fingerprint` of the values of all items.

    They are hashed one by one, without making the list.
    """
    seen = hashlib.sha256(b"[")
    for number, item in enumerate(items):
        values = [item.name, item.offset, item.size, item.label, item.class_name, item.text, item.refused]
        values += [item.more] if item.more else []
        seen.update(b"," * (number > 0) + canonical(values))
    seen.update(b"]")
    return seen.hexdigest()


def recorded_listing(folder: Path) -> str | None:
    """Return the fingerprint of the listing that an unfinished output is made of.

    None if none was recorded.
    """
    note = folder / RECEIPTS / LISTING
    return json_files.read(note, _Listing)["fingerprint"] if note.exists() else None


def drop_receipts(folder: Path) -> None:
    """Remove what only an unfinished output needs."""
    shutil.rmtree(folder / RECEIPTS, ignore_errors=True)
