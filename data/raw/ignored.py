"""The stated list of files that belong to no dataset: what systems, archives and authors put beside one.

They are passed over in folders and in tars alike, and counted; they take nothing of the quarantine's budget.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import PurePosixPath

from data.media.formats import MEDIA_SUFFIXES

FOLDERS = {
    *("__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"),
    *("network trash folder", "temporary items"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # of network disks
}
TRAINERS = {"_controls", "_latent_cache", "_t_e_cache", "_clip_vision_cache"}  # folders of ai-toolkit
_STREAMS = (":zone.identifier", ":encryptable", ":mshield")  # of Windows, as files elsewhere
ICLOUD = "placeholder of a file in iCloud, not downloaded"
NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
# Files of a saved or uploaded Hugging Face dataset, and of archives.
RECORDS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "croissant.json"}
# SimpleTuner's
_CACHES = re.compile(r"(aspect_ratio_bucket_(indices|metadata)|all_(image|video)_files)_.*\.json")
_WORDS = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog|citation|authors|sha256sums|md5sums)([-_.].*)?"
)
_WORD_SUFFIXES = {"", ".md", ".txt", ".rst", ".html", ".pdf", ".cff", ".bib", ".rdf"}


def ignored_as(name: str, owners: Container[str] = ()) -> str:
    """Return the heading under which a file of this name (relative, with `/`) is passed over.

    "" if it is not.

    owners: pictures and films with and without suffix: `license_plate.txt` is the caption of
    `license_plate.png` and no licence.
    """
    path = PurePosixPath(name)
    *folders, base = path.parts or ("",)
    if (
        any(part.lower() in FOLDERS for part in folders)
        or base.lower() in NAMES
        or base.startswith("~$")
        or base.lower().endswith(_STREAMS)
    ):
        return "of the system"
    if any(part.lower() in TRAINERS for part in folders) or _CACHES.fullmatch(base.lower()):
        return "of a trainer (controls, caches)"
    if base.startswith(".") and base.endswith(".icloud"):
        return ICLOUD
    if any(part.startswith(".") and part != ".." for part in path.parts):
        return "hidden"
    suffix = path.suffix.lower()
    is_of_words = suffix in _WORD_SUFFIXES and _WORDS.fullmatch(base.lower())
    if base.lower() in RECORDS or (is_of_words and str(path.with_suffix("")) not in owners):
        return suffix or "without suffix"
    return ""


class LateNames:
    """A set of names, read once it is asked for one; asking for none costs nothing."""

    def __init__(self, names: Iterable[str]) -> None:
        self._unread = names

    @functools.cached_property
    def _names(self) -> set[str]:
        return set(self._unread)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def owners_among(names: Iterable[str]) -> Iterator[str]:
    """Yield the names of pictures and films, with and without suffix."""
    for name in names:
        if name.lower().endswith(MEDIA_SUFFIXES):
            yield name
            yield str(PurePosixPath(name).with_suffix(""))
