"""Files of a source that a table names otherwise than they are called.

A table may lie beside the folder of its pictures, name them without suffix, or come from a system whose file
names ignore case or are stored in another Unicode form.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from data.media.formats import FILM_SUFFIXES, STILL_SUFFIXES

OTHERWISE = (
    "row whose file is called otherwise (another folder, suffix, spaces, case, %-code or Unicode form)"
)


def folded(name: str) -> str:
    """Return a name in the form in which names are compared: Unicode's NFC, without case."""
    return unicodedata.normalize("NFC", name).casefold()


class Alike:
    """The files of a source by the last part of their names, with and without suffix.

    names: of the media files, relative to the source, with `/`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_base: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            path = PurePosixPath(name)
            self._by_base[folded(path.name)].append(name)
            self._by_stem[folded(path.stem)].append(name)

    def find(self, folder: str, text: str) -> list[str]:
        """Return the files below a folder that a path in a table may mean, the likeliest alone if one is.

        folder: relative to the source, "" for the source itself.  text: relative, with `/`.
        Those whose names end with the whole path come before those that do but for the suffix that the path
        lacks, and those before others of its kind (`0.png` for `0.jpg`); among them
        the one that is so written before those that are but for case and Unicode form.
        """
        wanted, base = folded(f"/{text}"), folded(PurePosixPath(text).name)
        within = f"{folder}/" if folder else ""
        whole = [name for name in self._by_base.get(base, ()) if folded(f"/{name}").endswith(wanted)]
        stems = [name for name in self._by_stem.get(base, ()) if _without_suffix(name).endswith(wanted)]
        for found in (whole, stems, self._of_kind(wanted)):
            below = [name for name in found if name.startswith(within)]
            exact = [name for name in below if f"/{name}".endswith(f"/{text}")]
            if below:
                return exact if len(exact) == 1 else below
        return []

    def _of_kind(self, wanted: str) -> list[str]:
        """Return the pictures, or films, whose names end as a path does whose suffix is that of another."""
        path = PurePosixPath(wanted)
        kind = next((kind for kind in (STILL_SUFFIXES, FILM_SUFFIXES) if path.suffix in kind), ())
        return [
            name
            for name in self._by_stem.get(path.stem, ())
            if name.lower().endswith(kind) and _without_suffix(name).endswith(str(path.with_suffix("")))
        ]


def _without_suffix(name: str) -> str:
    return folded(f"/{PurePosixPath(name).with_suffix('')}")
