"""Which state of the source code runs: a commit, and whether files differ from it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from core.reading import json_files
from core.root import ROOT

RECORD = "code.json"  # beside the packages of a copy of the code: what was copied
PACKAGES = ("core", "models", "data", "tools", "launch", "configs")
TIMEOUT_S = 10.0
_SHOWN = 12  # letters of a commit


class CodeRecord(TypedDict):
    """A `Code` as JSON."""

    commit: str
    changes: str


@dataclass(frozen=True)
class Code:
    """commit: "" where it is not known.  changes: hash of the files that differ from it; "" for none."""

    commit: str = ""
    changes: str = ""

    def __str__(self) -> str:
        if not self.commit:
            return "an unknown commit"
        return f"commit {self.commit[:_SHOWN]}" + (f" with changes ({self.changes})" if self.changes else "")

    def as_dict(self) -> CodeRecord:
        """Return plain JSON values."""
        return {"commit": self.commit, "changes": self.changes}


def read(record: CodeRecord | None) -> Code | None:
    """Return what `as_dict` recorded; None for a record of an earlier version, which has none."""
    return None if record is None else Code(record["commit"], record["changes"])


class _Repository(TypedDict):
    commit_id: NotRequired[str]


class _Installed(TypedDict):
    """What pip notes of an installation."""

    vcs_info: NotRequired[_Repository]


@functools.cache
def code(root: Path = ROOT) -> Code:
    """Return the state of the code in `root`, as it was when this was first asked.

    It is that of a checkout of git, of a copy that `submit` made, or of an installation from a repository.
    """
    if (root / RECORD).is_file():
        return read(json_files.read(root / RECORD, CodeRecord)) or Code()
    if (root / ".git").exists():  # asked for, since an installation may lie inside another project's checkout
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return _of_checkout(root)
        return Code()
    return _of_installation(root)


def _of_checkout(root: Path) -> Code:
    """Ask git, which must be there, for the commit and the files of our packages that differ from it."""
    words = ["git", "--no-optional-locks", "-C", str(root), "status", "--porcelain=v2", "--branch", "-z"]
    words += ["--no-renames", "--untracked-files=all", "--", *PACKAGES]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    found = subprocess.run(
        words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=True
    )
    lines = found.stdout.decode("utf-8", "surrogateescape").split("\0")
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    paths = [_path(line) for line in lines if line[:1] in ("1", "u", "?")]
    commit = heads.get("branch.oid", "")
    return Code("" if commit == "(initial)" else commit, _hash(root, paths) if paths else "")


def _path(line: str) -> str:
    """Return the path of an entry of `git status --porcelain=v2`."""
    return line.split(" ", {"1": 8, "u": 10, "?": 1}[line[0]])[-1]


def _hash(root: Path, paths: list[str]) -> str:
    """Hash the names and contents of files; a file that has gone has no content."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        file = root / path
        content = hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b""
        digest.update(os.fsencode(path) + b"\0" + content)
    return digest.hexdigest()[:_SHOWN]


def _of_installation(root: Path) -> Code:
    """Return the commit that pip notes of an installation from a repository (PEP 610)."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        installed = importlib.metadata.distribution("longtake")
        if Path(str(installed.locate_file(""))).resolve() == root:
            noted = (installed.read_text("direct_url.json") or "{}").encode()
            found = json_files.parse(noted, _Installed, "direct_url.json")
            return Code(found.get("vcs_info", {}).get("commit_id", ""))
    return Code()
