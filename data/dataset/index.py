"""Finished datasets: the mapped index, samples by row, verification."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from core.errors import WorkError
from core.files import published_names, regular
from core.progress import counted, say
from core.reading.open_files import KeptFiles
from data.dataset.audit import Finding, audit
from data.dataset.blocks import Table, open_table
from data.dataset.manifest import DatasetManifest, read_sidecar
from data.dataset.media_rows import OLD_MEDIA_DTYPE, upgraded
from data.dataset.remote.remote_folder import RemoteFolder, url_of
from data.dataset.schema import COLOUR, INDEX, INDEX_DTYPE, MEDIA, MEDIA_DTYPE, MEDIA_RULES
from data.dataset.shared.shard_table import names_of, samples_of
from data.dataset.tars import parse_sample, read_range
from data.media.colour import ColourMode


class Dataset:
    """A finished dataset, raw or latent: a folder, or a URL (`data.dataset.remote`), of which `folder` is
    the copy of manifest and index. place: the folder or the URL, to be shown.

    Opening reads `dataset.json` and maps the index; it checks that shards and index are there and fit each
    other, not their content (`verify` does). UserError if the folder is no finished dataset, WorkError if
    something is missing or does not fit. A block of the index, or of a file beside it, is compared with its
    hash when a row in it is first used (`data.dataset.blocks`); WorkError then.
    field: of a config, which named the folder.  check: whether blocks are compared.  look: whether the folder
    is listed to see that every shard is there; of the ranks of a run one does so for all.
    """

    def __init__(
        self, folder: Path | str, field: str = "source", check: bool = True, look: bool = True
    ) -> None:
        url = url_of(folder, field)
        self._remote = RemoteFolder(url, field=field) if url else None
        self.folder = self._remote.folder if self._remote else Path(folder)
        self.place = url or str(folder)
        self.manifest = DatasetManifest.read(self.folder, field)
        if look:
            self._require_shards()
        if not check:
            self.manifest = replace(self.manifest, blocks={})  # nothing to compare with
        rows, crcs = self.manifest.samples, self.manifest.blocks.get(INDEX, "")
        self.index = open_table(self.folder / INDEX, INDEX_DTYPE, rows, crcs, "not a readable index")
        self._files = KeptFiles()

    def _require_shards(self) -> None:
        """Raise WorkError unless every shard of the manifest is there."""
        names = self._remote.names if self._remote else published_names(self.folder)
        missing = sorted(set(names_of(self.manifest.shards)).difference(names))
        if missing:
            where = self._remote.url if self._remote else self.folder
            raise WorkError(f"{where}/{missing[0]}: missing ({counted(len(missing), 'shard')} in all)")

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def media(self) -> Table:
        """(samples,) MEDIA_DTYPE, row by row beside the index; raw datasets only.

        A warning is printed once for facts written before media rules had a version.
        """
        if self.media_rules:
            return read_sidecar(self.folder / MEDIA, MEDIA_DTYPE, self.manifest)
        say(
            f"{self.place}: made before media rules had a version; what these would change is refused, and "
            f"`longtake inspect {self.place} action=reindex` measures its videos anew"
        )
        old = read_sidecar(self.folder / MEDIA, OLD_MEDIA_DTYPE, self.manifest)
        return Table(upgraded(np.asarray(old)), None)

    @property
    def media_rules(self) -> int:
        """Version of the rules of docs/media.md by which a raw dataset was measured; 0 is before them."""
        return int(self.manifest.extra.get(MEDIA_RULES, 0))

    @property
    def colour(self) -> ColourMode:
        """The treatment of colours wherever the samples of a raw dataset are read."""
        mode: ColourMode = self.manifest.extra.get(COLOUR, "convert")
        return mode

    def shard_path(self, shard: int) -> Path:
        """Return the path of the tar with this number, in a local dataset."""
        return self.folder / self.manifest.shards[shard].name

    def open_shard(self, shard: int) -> IO[bytes]:
        """Open the tar with this number for reading, unbuffered; it is fetched first if it is remote.

        WorkError if it is not as long as when it was indexed.
        """
        record = self.manifest.shards[shard]
        if self._remote:
            return self._remote.open_shard(record)
        file = open(self.shard_path(shard), "rb", buffering=0, opener=regular)  # noqa: SIM115 (the caller's)
        size = os.fstat(file.fileno()).st_size
        if size != record.bytes:
            file.close()
            raise WorkError(
                f"{self.shard_path(shard)}: {size} bytes, but {record.bytes} when it was indexed: "
                "truncated or replaced"
            )
        return file

    def read(self, row: int) -> dict[str, bytes]:
        """Return {suffix: content} of the members of a raw sample. Safe from several threads.

        WorkError if the shard is not as long as it was, or the index points at something else than a sample.
        """
        entry = self.index[row]
        shard, offset, size = int(entry["shard"]), int(entry["offset"]), int(entry["size"])
        if shard >= len(self.manifest.shards) or offset + size > self.manifest.shards[shard].bytes:
            raise WorkError(f"{self.folder / INDEX}: row {row} points outside of the shards")
        file = self._files.get(shard, self.open_shard)  # held while it is read: another thread may drop it
        data = read_range(file.fileno(), size, offset)
        try:
            return parse_sample(data)[1]
        except ValueError as error:
            raise WorkError(
                f"{self.shard_path(shard)}: row {row} of the index is no sample: {error}"
            ) from None

    def audit(self, advance: Callable[[], None] = lambda: None) -> Iterator[Finding]:
        """Hash every file again, where it lies.

        Yield a finding for each that differs. `advance` is called per file.
        """
        return self._remote.audit(advance) if self._remote else audit(self.folder, self.manifest, advance)

    def verify(self, advance: Callable[[], None] = lambda: None) -> None:
        """Hash every file again; WorkError names all that differ. `advance` is called per file."""
        found = list(self.audit(advance))
        if found:
            raise WorkError(f"{counted(len(found), 'file')} not as written: {'; '.join(map(str, found))}")


def shard_starts(dataset: Dataset) -> np.ndarray:
    """Return the first row of every shard, and the number of rows at the end: (shards + 1,)."""
    return np.concatenate([[0], samples_of(dataset.manifest.shards).cumsum()])
