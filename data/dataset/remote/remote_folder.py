"""Datasets behind a URL: manifest, index and config are copied here, shards when they are first read.

Everything is named by its SHA-256 and checked against it before it is used, so a copy is never that of
another file with the same name. Through fsspec (`s3://` needs s3fs, `gs://` gcsfs); no other scheme, no chain
of them and no command (`pipe:`) is accepted.

The copies lie where `data.dataset.remote.shard_cache` says.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from core.errors import UserError, WorkError
from core.files import atomic_file, sha256_file
from core.run.folder import CONFIG
from data.dataset.audit import Finding
from data.dataset.manifest import FINISHED, DatasetManifest
from data.dataset.remote.shard_cache import ShardCache, download_checked, locked
from data.dataset.retry import Retry
from data.dataset.schema import LEFT_OUT, MANIFEST, QUARANTINE
from data.dataset.shared.shard_table import ShardRecord

SCHEMES = ("s3", "gs", "gcs", "file", "memory")
UNHASHED = (CONFIG, QUARANTINE, LEFT_OUT)  # files without a hash in the manifest; each is copied again
RETRY = Retry()


def url_of(source: str | Path, field: str = "source") -> str | None:
    """Return the URL in `source`, None for a path; UserError for a scheme that is not accepted.

    `Path("s3://a/b")` loses a slash; it is put back.  field: of a config, which named it.
    """
    text = str(source)
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", text, re.DOTALL)
    if match is None or os.path.exists(text):
        return None
    scheme, rest = match.groups()
    if scheme not in SCHEMES or "::" in text or not rest.startswith("/"):
        accepted = " ".join(f"{name}://" for name in SCHEMES)
        raise UserError(field, text, f"a folder, or a URL that begins with one of {accepted}")
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest.strip('/')}"


class RemoteFolder:
    """A dataset behind a URL. folder: where its manifest and index lie here.  field: of a config, which named
    the URL.

    Operations that fail for a moment are retried (`data.dataset.retry`); WorkError when they keep failing.
    """

    def __init__(self, url: str, cache: ShardCache | None = None, field: str = "source") -> None:
        self.url, self._field = url, field
        self.cache = cache or ShardCache.from_environment()
        self._system, self._path = _file_system(url)
        manifest = self._read_manifest()
        digest = hashlib.sha256(manifest).hexdigest()
        self.folder = self.cache.folder.parent / "datasets" / digest
        with locked(self.folder.with_name(f"{digest}.lock")):
            with atomic_file(self.folder / MANIFEST) as file:
                file.write(manifest)
            self.manifest = DatasetManifest.read(self.folder)
            for name, expected in self.manifest.files.items():
                self._copy(name, expected)
            for name in {*UNHASHED} & self.names.keys() - self.manifest.files.keys():
                with atomic_file(self.folder / name) as file:
                    self._get(name, file)

    def open_shard(self, record: ShardRecord) -> IO[bytes]:
        """Open a shard for reading; WorkError if it is missing, or not what the manifest says."""
        name = f"{self.url}/{record.name}"
        return self.cache.open(record.sha256, record.bytes, name, lambda file: self._get(record.name, file))

    @cached_property
    def names(self) -> dict[str, int]:
        """Return {file name: bytes} of all files beside the manifest, by one listing."""
        entries = RETRY.call(self.url, lambda: self._system.ls(self._path, detail=True))
        return {entry["name"].rpartition("/")[2]: int(entry["size"] or 0) for entry in entries}

    def audit(self, advance: Callable[[], None] = lambda: None) -> Iterator[Finding]:
        """Read and hash every file where it lies; yield a finding for each that is not as it was written."""
        expected = {shard.name: shard.sha256 for shard in self.manifest.shards} | dict(self.manifest.files)
        for name, digest in expected.items():
            try:
                if self._sha256(name) != digest:
                    yield Finding(name, f"has another SHA-256 than {MANIFEST} says")
            except FileNotFoundError:
                yield Finding(name, "is missing")
            advance()

    def _read_manifest(self) -> bytes:
        try:
            return b"".join(self._chunks(MANIFEST))
        except FileNotFoundError:
            raise UserError(self._field, self.url, f"{FINISHED}; this has none") from None

    def _copy(self, name: str, expected: str) -> None:
        path = self.folder / name
        if path.exists() and sha256_file(path) == expected:
            return
        with atomic_file(path) as file:
            download_checked(file, expected, f"{self.url}/{name}", lambda file: self._get(name, file))

    def _get(self, name: str, file: IO[bytes]) -> None:
        try:
            for chunk in self._chunks(name):
                file.write(chunk)
        except FileNotFoundError:
            raise WorkError(f"{self.url}/{name}: missing") from None

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._chunks(name):
            digest.update(chunk)
        return digest.hexdigest()

    def _chunks(self, name: str) -> Iterator[bytes]:
        path = f"{self._path}/{name}"
        return RETRY.chunks(f"{self.url}/{name}", lambda: self._system.open(path, "rb"))


def _file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for the URL, and the path in it.

    UserError if a package for it is missing.
    """
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{url}: {error} (pip install 'longtake[remote]' and what it names)") from None
    return system, str(path).rstrip("/")
