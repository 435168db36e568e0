"""One sample of a source before it is decoded: where its bytes lie, and what is known beside them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.dataset.retry import is_of_storage
from data.dataset.tars import MemberFile
from data.media.clips import Clip
from data.media.formats import MediaError, MediaLimits
from data.raw.opening import open_within


@dataclass(frozen=True, slots=True)
class Item:
    """One sample of a source, not decoded yet.

    name: where it comes from, relative to the source.  path, offset, size: the bytes of its picture or clip;
    in a Parquet file `offset` is the row and `column` names where in it they are.
    label: position in the listing's classes, -1 for none.  refused: (stage, reason) if it must not be used.
    clip: the part of the video that the sample is, None for all of it.
    more: what else is recorded in the sample's JSON, such as further captions.
    within: the folder out of which no link may lead, "" for anywhere.
    """

    name: str
    path: Path
    offset: int
    size: int
    label: int = -1
    class_name: str = ""
    text: str = ""
    refused: tuple[str, str] | None = None
    clip: Clip | None = None
    column: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    within: str = ""

    @property
    def packed(self) -> int:
        """Approximate number of bytes that the sample takes in a shard."""
        return self.clip.bytes if self.clip else self.size

    def read(self, limits: MediaLimits) -> bytes:
        """Read the bytes of the picture or clip.

        MediaError if they are too many, unreadable, or have changed since.

        OSError where it is storage that fails, and not this file.
        """
        try:
            return self._read_clip(self.clip, limits) if self.clip else self._read_whole(limits)
        except OSError as error:
            if is_of_storage(error):
                raise
            raise MediaError(error.strerror or str(error)) from None

    def _read_whole(self, limits: MediaLimits) -> bytes:
        limits.check_bytes(self.size)
        if self.column:
            data = self._read_cell()
        else:
            in_tar = self.path.suffix.lower() == ".tar"
            with open_within(self.path, self.within) as file:
                file.seek(self.offset)
                data = file.read(self.size if in_tar else self.size + 1)
        if len(data) != self.size:
            raise MediaError("its size changed since it was listed")
        return data

    def _read_cell(self) -> bytes:
        from data.raw.tables.parquet_rows import read_cell

        return read_cell(self.path, self.column, self.offset, self.within)

    def _read_clip(self, clip: Clip, limits: MediaLimits) -> bytes:
        from data.media.remux import copy_clip

        if self.column:
            return copy_clip(io.BytesIO(self._read_whole(limits)), clip, limits)
        with open_within(self.path, self.within, buffering=0) as file:
            return copy_clip(MemberFile(file, self.offset, self.size), clip, limits)


def printable(name: str) -> str:
    """Return a file name as text: bytes that are not UTF-8 become \\xNN, lone surrogates \\uNNNN."""
    try:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # from a table; no file is called so
        return name.encode("utf-8", "backslashreplace").decode()
