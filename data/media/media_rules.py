"""The version of the media rules (docs/media.md), and the kinds of files that a version reads otherwise.

A raw dataset records the version it was measured by. What a later version reads otherwise is refused by name
where such a dataset holds it; all else is read on. The kinds stand in `found` of a sample, so that a dataset
and the fingerprints of caches know which of them it holds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from data.media.formats import VIDEO_FORMATS, suffix_of

RULES = 4  # datasets made before rules were written have 0
FIRST = 1
ANEW = "rules"  # property of `data.media.formats.Media.found`: a kind, and since which version
_SINCE = ", since media rules "
_KINDS = {"tif", "bmp", *VIDEO_FORMATS}  # some files of these


def read_anew(kind: str, version: int) -> dict[str, str]:
    """Return the entry of `found` that says that `version` reads this kind otherwise than the one before."""
    return {ANEW: f"{kind}{_SINCE}{version}"}


def version_needed(values: Collection[str]) -> int:
    """Return the version that pixels depend on. values: of `ANEW`, of all samples of a dataset."""
    return max([FIRST, *(int(value.rpartition(_SINCE)[2]) for value in values)])


def difference(found: Mapping[str, str], version: int) -> str:
    """Say what rules later than `version` read otherwise in a file; "" where they read it alike."""
    value = found.get(ANEW, "")
    if not value or version_needed([value]) <= version:
        return ""
    kind, _, since = value.rpartition(_SINCE)
    return f"it is {kind}, which media rules {since} read otherwise than rules {version}"


def may_differ(data: bytes, version: int) -> bool:
    """Return whether rules later than `version` may read a file otherwise, by a look at its bytes alone."""
    if version >= RULES or version < FIRST:
        return version < FIRST
    suffix = suffix_of(data)
    marks = {"png": (b"acTL", b"gAMA", b"tRNS"), "avif": (b"clap", b"moov"), "webp": (b"ANMF",)}.get(
        suffix, ()
    )
    return suffix in _KINDS or any(mark in data for mark in marks)
