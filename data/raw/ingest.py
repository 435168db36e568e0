"""What is in a source: folders of media, tables that name media, WebDataset tars; listed in a fixed order.

Listing opens tables, captions and tar headers, but decodes no picture. A sample that is known to be unusable
(caption that is not UTF-8, link in a tar) stays in the list with the reason, so that it can be counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from core.errors import UserError
from core.files import instead, regular
from data.dataset.retry import is_of_storage
from data.dataset.tars import APART, Member, MemberFile, TarSample, samples
from data.media.clips import Clip
from data.media.formats import MEDIA_SUFFIXES, MediaError, MediaLimits, media_names
from data.raw.captions import Annotation, read_sidecars, read_tar_annotation
from data.raw.tables import TABLE_SUFFIXES, table_rows

ACCEPTED = "an existing folder, a table (.csv .jsonl .parquet) or a .tar file"
MOST_CLASSES = 1_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """One sample of a source, not decoded yet.

    name: where it comes from, relative to the source.  path, offset, size: the bytes of its picture or clip.
    label: position in the listing's classes, -1 for none.  refused: (stage, reason) if it must not be used.
    clip: the part of the video that the sample is, None for all of it.
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

    @property
    def packed(self) -> int:
        """About how many bytes the sample takes in a shard."""
        return self.clip.bytes if self.clip else self.size

    def read(self, limits: MediaLimits) -> bytes:
        """The bytes of the picture or clip; MediaError if too many, unreadable or changed meanwhile.

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
        in_tar = self.path.suffix.lower() == ".tar"
        with open(self.path, "rb", opener=regular) as file:
            file.seek(self.offset)
            data = file.read(self.size if in_tar else self.size + 1)
        if len(data) != self.size:
            raise MediaError("its size changed since it was listed")
        return data

    def _read_clip(self, clip: Clip, limits: MediaLimits) -> bytes:
        from data.media.remux import copy_clip

        with open(self.path, "rb", buffering=0, opener=regular) as file:
            return copy_clip(MemberFile(file, self.offset, self.size), clip, limits)


@dataclass(frozen=True)
class Listing:
    """Everything a source holds. ignored: what was passed over, suffix (or kind) -> number of files."""

    items: tuple[Item, ...]
    classes: tuple[str, ...]
    ignored: Counter[str]


def list_source(source: Path) -> Listing:
    """List the samples of a folder (sorted by path), a table (in its order) or a tar (in its order).

    In a folder the class is the first sub-folder on the way to the file, and the caption lies beside it
    (`NAME.txt`, `NAME.json`). UserError if there is no source or nothing in it that could be read.
    """
    ignored: Counter[str] = Counter()
    if source.is_dir():
        items = _folder_items(source, ignored)
    elif source.is_file() and source.suffix.lower() == ".tar":
        items = _tar_items(source, source.name)
    elif source.is_file() and source.suffix.lower() in TABLE_SUFFIXES:
        items = [_table_item(source, name, annotation) for name, annotation in table_rows(source)]
    else:
        raise UserError("source", source, ACCEPTED + ("" if source.exists() else instead(source)))
    if not items:
        found = ", ".join(f"{count} {suffix}" for suffix, count in sorted(ignored.items())) or "nothing"
        accepted = " ".join(sorted(MEDIA_SUFFIXES))
        raise UserError(
            "source", source, f"at least one image or video ({accepted}, or in a .tar); found {found}"
        )
    labelled, classes = with_labels(items)
    return Listing(tuple(labelled), classes, ignored)


def _folder_items(source: Path, ignored: Counter[str]) -> list[Item]:
    files = _walk(source, ignored)
    present = set(files)
    used: set[str] = set()
    items: list[Item] = []
    for name in files:
        path = source / name
        suffix = path.suffix.lower()
        if suffix == ".tar":
            items += _tar_items(path, name)
        elif suffix in MEDIA_SUFFIXES:
            folder, _, _ = name.partition("/")
            annotation = read_sidecars(source, name, present, used)
            if annotation.class_name == "" and annotation.label < 0 and "/" in name:
                annotation = replace(annotation, class_name=printable(folder))
            items.append(_file_item(path, name, annotation))
    left = [name for name in files if name not in used and not _is_content(name)]
    ignored.update(PurePosixPath(name).suffix.lower() or "without suffix" for name in left)
    return items


def _is_content(name: str) -> bool:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in MEDIA_SUFFIXES or suffix == ".tar"


def _walk(source: Path, ignored: Counter[str]) -> list[str]:
    """Names of all files below `source`, sorted; hidden ones and linked folders are passed over."""

    def fail(error: OSError) -> None:
        raise error

    names = []
    for folder, folders, files in os.walk(source, onerror=fail):
        ignored["linked folder"] += sum(os.path.islink(os.path.join(folder, name)) for name in folders)
        ignored["hidden"] += sum(name.startswith(".") for name in files + folders)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        relative = Path(folder).relative_to(source)
        names += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    for kind in ("linked folder", "hidden"):
        if not ignored[kind]:
            del ignored[kind]
    return sorted(names)


def _file_item(path: Path, name: str, annotation: Annotation) -> Item:
    refused, size = annotation.refused, 0
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        refused = refused or ("read", getattr(error, "strerror", None) or str(error))
    return _annotated(Item(printable(name), path, 0, size, refused=refused), annotation)


def _table_item(table: Path, name: str, annotation: Annotation) -> Item:
    if annotation.refused and not annotation.path:
        return Item(name, table, 0, 0, refused=annotation.refused)
    path = table.parent / annotation.path
    inside = os.path.isabs(annotation.path) and path.is_relative_to(table.parent)
    shown = path.relative_to(table.parent).as_posix() if inside else annotation.path
    return _file_item(path, path.name if os.path.isabs(shown) else shown, annotation)


def _tar_items(path: Path, name: str) -> list[Item]:
    items = []
    with open(path, "rb", opener=regular) as file:
        found = list(samples(path))
        times = Counter(sample.key for sample in found)  # more than one: its members lie apart
        for sample in found:
            shown = f"{name}/{sample.key}"
            media = media_members(sample)
            if sample.refused or len(media) != 1 or times[sample.key] > 1:
                count = f"has {len(media)} images or videos, expected 1"
                reason = sample.refused or (count if len(media) != 1 else APART)
                items.append(Item(printable(shown), path, 0, 0, refused=("list", reason)))
                continue
            annotation = read_tar_annotation(file.fileno(), path, sample)
            item = Item(printable(f"{name}/{media[0].name}"), path, media[0].content, media[0].size)
            items.append(_annotated(replace(item, refused=annotation.refused), annotation))
    return items


def media_members(sample: TarSample) -> list[Member]:
    """The members of a tar sample that are images or videos by their suffix (`jpg`, `rgb.png`)."""
    return [sample.members[suffix] for suffix in media_names(sample.members)]


def _annotated(item: Item, annotation: Annotation) -> Item:
    return replace(item, label=annotation.label, class_name=annotation.class_name, text=annotation.text)


def printable(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def with_labels(items: Iterable[Item]) -> tuple[list[Item], tuple[str, ...]]:
    """Give every item with a class its label, and return the names of the classes.

    Numbers given by the source are kept (a class without a name is called by its number); where there are
    none, names are numbered in sorted order. UserError if a number has two names or a name two numbers.
    """
    items = list(items)
    usable = [item for item in items if item.refused is None]
    names = _numbered_names(usable)
    if not names:
        unnumbered = sorted({item.class_name for item in usable} - {""})
        names = dict(enumerate(unnumbered))
    numbers = {name: number for number, name in names.items()}
    if len(numbers) != len(names):
        double = Counter(names.values()).most_common(1)[0][0]
        raise UserError(f"class {double!r} has more than one label")
    labelled = []
    for item in items:
        label = item.label if item.label >= 0 else numbers.get(item.class_name, -1)
        if item.refused is None and item.class_name and label < 0:
            raise UserError(f"{item.name}: class {item.class_name!r} has no label, others have one")
        labelled.append(replace(item, label=label, class_name=names.get(label, "")))
    return labelled, tuple(names[number] for number in sorted(names))


def _numbered_names(items: Sequence[Item]) -> dict[int, str]:
    """Label -> name for labels that the source gives, without gaps; {} if it gives none."""
    given: dict[int, str] = {}
    for item in items:
        if item.label >= 0:
            known = given.setdefault(item.label, item.class_name)
            if item.class_name and known and known != item.class_name:
                raise UserError(f"{item.name}: label {item.label} is class {item.class_name!r} and {known!r}")
            given[item.label] = known or item.class_name
    if not given:
        return {}
    if max(given) >= MOST_CLASSES:
        raise UserError("label", max(given), f"a class number below {MOST_CLASSES}")
    return {number: given.get(number) or str(number) for number in range(max(given) + 1)}


def known_names(found: tuple[str, ...], before: tuple[str, ...]) -> tuple[str, ...]:
    """The classes there were, if those found agree with them; a class without samples shows in no tar."""
    agree = len(before) >= len(found) and all(
        name in (before[number], str(number)) for number, name in enumerate(found)
    )
    return before if agree else found
