"""The files of a source while it is listed: each layout takes those that are its own."""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from core.errors import UserError
from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.annotation import Annotation
from data.raw.annotations.roles import role_of
from data.raw.annotations.several import stored
from data.raw.annotations.text_encoding import LOOKED_AT
from data.raw.findings import Findings
from data.raw.item import Item, printable
from data.raw.layouts.named.alike import Alike
from data.raw.opening import Opener, opener_within
from data.raw.rules import SourceRules

BESIDE = ("videos", "images", "video", "image")  # folders where files of a table may lie, beside it
MISREAD = "text that looks like UTF-8 read as another encoding (`Ã©` for `é`), taken as it is"
_MISREAD = re.compile(
    "[\u00c2-\u00f4](?:[\u0080-\u00bf]|[€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ])"
)  # by Latin-1 or cp1252
KINDS_OF_MEDIA = (*BESIDE, "imgs", "img", "pictures", "photos", "clips", "media")  # folders called so
A_FOLDER = "is a folder, and a sample is one file; of frames make a film (ffmpeg -i FOLDER/%04d.png FILM.mp4)"


@dataclass
class Tree:
    """source: the folder, or that of the one file that is given.  given: that file's name, "" for a folder.

    left: files that no layout has taken yet, sorted; relative names.  left_out: those of splits that are not
    packed.  skip: folders at the front of every name that are no classes: splits, and `images` around all.
    tables: names of the tables that name samples of the source.  nameless: why others name none.
    no_classes: first-level folders that are parts of a dataset and no classes.
    has_splits: whether something in the source is a split.  named_otherwise: {file: column of a table that
    names it and has no role}.  conditions: {file: folder} of what may be a condition of a picture.
    beside_tables: files beside pictures, once a table names one.
    """

    source: Path
    rules: SourceRules
    findings: Findings
    left: dict[str, None]
    given: str = ""
    skip: int = 0
    left_out: set[str] = field(default_factory=set)
    tables: list[str] = field(default_factory=list)
    nameless: list[UserError] = field(default_factory=list)
    no_classes: set[str] = field(default_factory=set)
    has_splits: bool = False
    named_otherwise: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    beside_tables: dict[str, dict[str, str]] | None = None

    @functools.cached_property
    def alike(self) -> Alike:
        """The media files that were left when a table first named one that is not there."""
        return Alike(self.media())

    def media(self) -> list[str]:
        """Return the pictures and films that are left."""
        return [name for name in self.left if name.lower().endswith(MEDIA_SUFFIXES)]

    def within(self, name: str = "") -> str:
        """Return the folder that no link may lead out of, "" for anywhere.

        The file that is given may be a link.
        """
        return "" if self.rules.links == "follow" or (name and name == self.given) else str(self.source)

    def opener(self, name: str) -> Opener:
        """Return an opener for a file of the source."""
        return opener_within(self.within(name))

    def take(self, names: Iterable[str]) -> None:
        """Take these files out of those left: they are accounted for."""
        for name in names:
            self.left.pop(name, None)

    def class_of(self, name: str) -> str:
        """Return the class that the folders of a file name: the first one behind those of splits.

        "" for none.
        """
        *folders, _ = PurePosixPath(name).parts[self.skip :] or ("",)
        if not folders or folders[0] in self.no_classes:
            return ""
        key, _, value = folders[0].partition("=")  # of Hive, `class=cat`
        return printable(value if value and role_of(key) in ("label", "class") else folders[0])

    def pass_by(self, names: Sequence[str]) -> None:
        """Let folders be no classes that only say which kind of media is in them, or hold all the others.

        names: of the files that can hold samples. `classes=true` takes them as classes.
        """
        folders = [PurePosixPath(name).parts[:-1] for name in names]
        while folders and not self.rules.classes and all(len(parts) > self.skip for parts in folders):
            level = {parts[self.skip] for parts in folders}
            if all(word.lower() in KINDS_OF_MEDIA for word in level):
                why = f"what lies in {', '.join(sorted(level))} is of no class by that name"
            elif len(level) == 1 and _is_around(folders, self.skip):
                why = f"the folder {printable(*level)}/ around all others is no class"
            else:
                return
            self.skip += 1
            self.findings.said.append(f"{why} (classes=true takes it)")

    def note(self, annotation: Annotation) -> None:
        """Count the notes on a sample's annotation."""
        self.findings.notes.update(annotation.notes)
        if not annotation.text.isascii() and _MISREAD.search(annotation.text):
            self.findings.notes[MISREAD] += 1
        for name, value in annotation.unread:
            self.findings.add_field(name, value)
        if len(annotation.captions) > 1:
            self.findings.notes["several captions: all are stored, and each step of training draws one"] += 1
        self.findings.notes.update(f"a second caption in .{suffix}, not used" for suffix in annotation.unused)


def _is_around(folders: Sequence[tuple[str, ...]], depth: int) -> bool:
    """Return whether one folder at this depth holds all, and below it are others without files beside.

    Those are several, or say which kind of media is in them.
    """
    while all(len(parts) > depth for parts in folders):
        level = {parts[depth] for parts in folders}
        if len(level) > 1 or all(word.lower() in KINDS_OF_MEDIA for word in level):
            return True
        depth += 1
    return False


def with_annotation(item: Item, annotation: Annotation) -> Item:
    """Return the item with label, class, texts and reason of refusal of an annotation."""
    return replace(
        item,
        label=annotation.label,
        class_name=annotation.class_name,
        text=annotation.text,
        refused=item.refused or annotation.refused,
        more={**item.more, **stored(annotation.captions)},
    )


def file_item(path: Path, name: str, annotation: Annotation, within: str) -> Item:
    """Return the item of a file, refused if it is missing."""
    refused, size = annotation.refused, 0
    try:
        status = os.stat(path)
        size = status.st_size
        if stat.S_ISDIR(status.st_mode):
            refused = refused or ("read", A_FOLDER)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        refused = refused or ("read", getattr(error, "strerror", None) or str(error))
    return with_annotation(Item(printable(name), path, 0, size, refused=refused, within=within), annotation)


def beginning(tree: Tree, name: str) -> bytes:
    """Return the first bytes of a file that is looked at only to say what it may be."""
    try:
        with open(tree.source / name, "rb", opener=tree.opener(name)) as file:
            return file.read(LOOKED_AT)
    except OSError:
        return b""  # it is not read, so it need not be readable
