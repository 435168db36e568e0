"""Findings of a listing beside samples: counted, said in the closing lines, or refused by name.

A role (text, label) that nothing fills, while something that nobody read looks like it, is refused: who wrote
captions must not train without them because a column has an unusual name.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from core.errors import UserError, WorkError
from core.progress import counted
from data.dataset.found import found_lines
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import FOUND
from data.raw.annotations.listings import (
    A_TABLE,
    ARCHIVES,
    COMPRESSED,
    LISTINGS,
    WAYS,
    companion_roles,
    file_roles,
    listing_roles,
    lists_splits,
)
from data.raw.annotations.roles import MAY_MISS, MayMiss, looks_like, may_fill
from data.raw.annotations.split_names import split_in
from data.raw.annotations.text_encoding import encoding_of, is_text
from data.raw.rules import SourceRules
from data.raw.tables.kinds import READERS

MOST_SHOWN = 20  # damaged files in one message
LOOKED_INTO = 20  # files of a suffix that is unusual for lists
LOOKED_AT_FIELDS = 100  # samples whose fields are looked at


@dataclass
class Unread:
    """Something that was not read. what: named with its place.  way: the setting that takes it.

    roles: what it looks like.  count: of its files, 0 for a column.
    """

    what: str
    way: str
    roles: set[MayMiss] = field(default_factory=set)
    count: int = 0


@dataclass
class Findings:
    """Collects what a listing has to tell. errors: damaged tars and tables, raised together at the end.

    ignored: what was passed over, by suffix or kind.  no_text: suffixes of files beside pictures without
    readable text.  split_lists: files that nothing read and that are called as lists of splits are.
    """

    ignored: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    unread: dict[str, Unread] = field(default_factory=dict)
    no_text: set[str] = field(default_factory=set)
    split_lists: list[str] = field(default_factory=list)
    errors: list[UserError | WorkError | OSError] = field(default_factory=list)
    _looked_at: Counter[str] = field(default_factory=Counter)
    _seen: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep an error of one file, so that the others are still looked at."""
        try:
            yield
        except (UserError, WorkError, OSError) as error:
            self.errors.append(error)

    def raise_errors(self) -> None:
        """Raise the errors that were met, all in one line; WorkError if a tar or a folder is among them."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            shown = "; ".join(str(error) for error in self.errors[:MOST_SHOWN])
            more = len(self.errors) - MOST_SHOWN
            shown += f"; and {counted(more, 'other')}" if more > 0 else ""
            users = all(isinstance(error, UserError) for error in self.errors)
            message = f"{len(self.errors)} files of the source cannot be used: {shown}"
            raise UserError(message) if users else WorkError(message)

    def add_column(
        self,
        table: str,
        name: str,
        values: Sequence[object],
        *,
        way: str = "",
        is_about_pictures: bool = False,
    ) -> None:
        """Note a column that has no role. way: what would take it, of a table that has no column for files.

        is_about_pictures: whether another column of that table names pictures of the source.
        """
        entry = self.unread.setdefault(f"{table}\n{name}", Unread(f"column {name!r} of {table}", way))
        entry.roles |= {role for role in MAY_MISS if looks_like(role, name, values)}
        if is_about_pictures and not entry.roles:
            entry.roles |= may_fill(values)
        entry.way = way or f"columns.{'label' if entry.roles == {'label'} else 'text'}={name}"

    def add_field(self, name: str, value: object) -> None:
        """Note a field of a sample's JSON that has no role; the first samples say what it looks like."""
        self._looked_at[name] += 1
        if self._looked_at[name] > LOOKED_AT_FIELDS:
            return
        entry = self.unread.setdefault(f".json\n{name}", Unread(f"field {name!r} of .json files", ""))
        entry.roles |= {role for role in MAY_MISS if looks_like(role, name, [value])}
        entry.way = f"columns.{'label' if entry.roles == {'label'} else 'text'}={name}"

    def add_companion(self, suffix: str, begins: Callable[[], bytes]) -> None:
        """Note a file beside a picture that nothing reads; begins: gives its first bytes.

        The first of a suffix decides whether all of it look like text; what does not is passed over.
        """
        key = f".{suffix}"
        if key not in self.unread and key not in self.no_text:
            roles, way = companion_roles(suffix, begins)
            if roles:
                self.unread[key] = Unread(key, way, roles)
            else:
                self.no_text.add(key)
        if key in self.unread:
            self.unread[key].count += 1
        else:
            self.ignored[key] += 1

    def add_file(self, name: str, begins: Callable[[], bytes], stems: Container[str] = ()) -> None:
        """Note a file that no layout took; its name or first bytes may say that it describes the source.

        begins: gives these bytes.  stems: names of samples without suffix.
        """
        path = PurePosixPath(name)
        suffix = path.suffix.lower()
        begins = functools.cache(begins)  # asked for roles, then for splits
        self._seen[suffix] += 1
        roles = file_roles(name, begins, stems, is_looked_into=self._seen[suffix] <= LOOKED_INTO)
        if suffix in COMPRESSED and PurePosixPath(path.stem).suffix.lower() in READERS:
            self.unread[name] = Unread(f"the file {name}", f"unpacking {name}", {*MAY_MISS})
        elif not roles and name.lower().endswith(ARCHIVES):
            self.ignored["archive, not opened (unpack it to read it)"] += 1
        elif roles or (suffix and suffix in LISTINGS and _may_be_splits(path, begins)):
            self.unread[name] = Unread(f"the file {name}", WAYS.get(suffix, A_TABLE), roles)
            if suffix in LISTINGS and _split_of_list(path.stem):
                self.split_lists.append(name)
        else:
            self.ignored[suffix or "without suffix"] += 1

    def add_listing(self, name: str, begins: bytes, way: str) -> None:
        """Note a table without a usable header if its first bytes name pictures and say more of them."""
        if roles := listing_roles(begins):
            self.unread[name] = Unread(f"the file {name}", way, roles)

    def add_apart(self, what: str, count: int, begins: bytes, way: str) -> None:
        """Note files of text that belong to no picture. begins: the first bytes of one.  way: to be read."""
        text = begins.decode(encoding_of(begins), errors="replace")
        roles: set[MayMiss] = {"text"} if re.search(r"[^\W\d_]", text) else {"label"}
        self.unread[what] = Unread(what, way, roles if is_text(begins) else set(), count)

    def add_table(self, name: str) -> None:
        """Note a table in a tar, which nothing reads."""
        self.unread[name] = Unread(f"the table {name}", "to unpack the tar", {"text"})

    def require_roles(self, rules: SourceRules, texts: int, labels: int) -> None:
        """Raise UserError if a role is empty and something unread looks like it."""
        if not texts and rules.captions and rules.wants_text:
            raise UserError(
                "captions", rules.captions, "none, or the suffix of files beside pictures that hold text"
            )
        if not texts and rules.wants_text:
            self._require("text", "caption", "captions=none packs without captions")
        if not labels and rules.classes is not False:
            self._require("label", "label", "classes=false packs without labels")

    def _require(self, role: MayMiss, thing: str, none: str) -> None:
        like = [entry for entry in self.unread.values() if role in entry.roles]
        if like:
            what = ", ".join(_shown(entry) for entry in like[:5])
            ways = ", ".join(dict.fromkeys(e.way for e in like[:5] if e.way)) or "see docs/datasets.md"
            raise UserError(
                f"no sample has a {thing}, but not read and alike: {what}; {ways} takes it, {none}"
            )

    def lines(self) -> list[str]:
        """Return the lines to say before the work begins."""
        lines = list(dict.fromkeys(self.said))
        lines += [f"{count} x {note}" for note, count in sorted(self.notes.items())]
        if self.unread:
            lines.append("not used: " + ", ".join(_shown(entry) for entry in self.unread.values()))
        if found := found_text(self.ignored):
            lines.append(f"passed over: {found}")
        return lines


def _may_be_splits(path: PurePosixPath, begins: Callable[[], bytes]) -> bool:
    """Return whether a file is called as a list of splits, or lists what belongs to which."""
    return bool(_split_of_list(path.stem)) or lists_splits(begins(), path.suffix.lower())


def _split_of_list(stem: str) -> str:
    """Return the split in the name of a list, also of `testlist01` and `test_cls`."""
    return split_in(re.sub(r"(list|set|_cls|_split)(?=\d*$)", "", stem.lower()))


def found_text(ignored: Counter[str]) -> str:
    """Describe counts by their heading, in words. Headings such as `row of split test` are of one."""
    return ", ".join(f"{count} {_plural(kind, count)}" for kind, count in sorted(ignored.items()))


def _plural(kind: str, count: int) -> str:
    return kind if count == 1 else re.sub(r"^(row|link|linked folder|archive|condition)\b", r"\1s", kind)


def _shown(entry: Unread) -> str:
    return f"{entry.count} {entry.what}" if entry.count else entry.what


def coverage(samples: int, texts: int, labels: int, classes: int) -> str:
    """Say how many samples have text and how many a label."""
    named = counted(classes, "class", "classes")
    return f"{texts} of {counted(samples, 'sample')} with text, {labels} with a label ({named})"


def closing_lines(manifest: DatasetManifest, labels: int) -> list[str]:
    """Return the closing lines of a finished raw dataset. labels: samples that have one."""
    texts = manifest.extra["texts"]
    return [
        coverage(manifest.samples, texts, labels, len(manifest.classes)),
        *found_lines(manifest.extra[FOUND]),
    ]
