"""List a source (folders of media, tables that name media, WebDataset tars) in a fixed order.

Listing opens tables, captions and tar headers, but decodes no picture. A sample that is known to be unusable
(caption that is not UTF-8, link in a tar) stays in the list with the reason, so that it can be counted.
Nothing is left out in silence: `Findings` counts what was passed over and refuses what looks like captions or
labels that nobody read.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from core.errors import UserError
from core.reading.instead import instead
from data.media.formats import READ_SUFFIXES
from data.raw.annotations.label_values import LABEL
from data.raw.annotations.labels import Pair, numbering
from data.raw.annotations.several import STORED
from data.raw.annotations.split_names import SPLITS, is_split, split_in
from data.raw.findings import Findings, coverage, found_text
from data.raw.ignored import LateNames
from data.raw.item import Item
from data.raw.item_store import ItemStore
from data.raw.layouts.apart import note_apart
from data.raw.layouts.kinds import LAYOUTS
from data.raw.layouts.splits import require_splits
from data.raw.layouts.tree import Tree, beginning
from data.raw.rules import SourceRules
from data.raw.tables.kinds import GIVEN
from data.raw.walking import OUTSIDE, missing_parts, walk

ACCEPTED = f"an existing folder, a table ({' '.join(GIVEN)}) or a .tar file"
DEFAULT_RULES = SourceRules()
_TAR = "write WebDataset tars, Parquet or files of them"
_ARRAYS = "write pictures as PNG files of arrays"
_BATCHES = re.compile(r"(data_batch_\d|test_batch|batches\.meta)(\.bin)?|.*-ubyte(\.gz)?")  # CIFAR, MNIST
UNREAD_FORMS = {  # files that hold whole datasets and are not read, by suffix
    ".arrow": "write Parquet of Arrow files (dataset.to_parquet)",
    **dict.fromkeys((".tfrecord", ".tfrecords", ".mdb", ".h5", ".hdf5", ".rec", ".mds", ".beton"), _TAR),
    **dict.fromkeys((".npz", ".npy", ".pkl", ".pickle", ".mat"), _ARRAYS),
}


@dataclass(frozen=True)
class Listing:
    """The contents of a source. ignored: what was passed over, suffix (or kind) -> number of files.

    texts, labels: samples that have one.  said: what else a person is to be told.
    """

    items: Sequence[Item]
    classes: tuple[str, ...]
    ignored: Counter[str]
    texts: int = 0
    labels: int = 0
    unusable: int = 0
    said: tuple[str, ...] = field(default=())

    @property
    def coverage(self) -> str:
        """Say how many of the samples have text and how many a label."""
        return coverage(len(self.items), self.texts, self.labels, len(self.classes))


def list_source(source: Path, rules: SourceRules = DEFAULT_RULES) -> Listing:
    """List the samples of a folder, a table or a tar by the layouts of `data.raw.layouts.kinds`.

    UserError if there is no source, nothing in it that could be read, or something in it that is not
    understood and matters; WorkError if tars in it are damaged. All such files are named at once.
    """
    tree = _tree(source, rules)
    counts = _Counts()
    listed = (item for layout in LAYOUTS for item in layout(tree))
    items = ItemStore(counts.counting(_wanted(item, rules) for item in listed))
    findings = tree.findings
    stems = LateNames(PurePosixPath(item.name).stem for item in items)
    note_apart(tree, items, stems)
    for name in tree.left:
        findings.add_file(name, partial(beginning, tree, name), stems)
    findings.raise_errors()
    require_splits(tree)
    if not len(items):
        accepted = " ".join(sorted(READ_SUFFIXES))
        found = found_text(findings.ignored) or "nothing"
        hint = "; links=follow reads those behind links" if findings.ignored[OUTSIDE] else ""
        ways = [way for suffix, way in UNREAD_FORMS.items() if findings.ignored[suffix]]
        ways += [_ARRAYS for name in tree.left if _BATCHES.fullmatch(PurePosixPath(name).name)]
        hint += "".join(f"; {way}" for way in dict.fromkeys(ways))
        if tree.nameless:
            raise tree.nameless[0]
        raise UserError(
            "source", source, f"at least one image or video ({accepted}, or in a .tar); found {found}{hint}"
        )
    labels, classes = numbering(counts.pairs)
    items.relabel(labels)
    findings.said += [*_alike_but_for_case(classes), *_called_as_splits(classes), *_lists_of_splits(tree)]
    labelled = sum(n for pair, n in counts.times.items() if labels(*pair)[0] >= 0)
    findings.require_roles(rules, counts.texts, labelled)
    return Listing(
        items,
        classes,
        findings.ignored,
        counts.texts,
        labelled,
        counts.unusable,
        tuple(findings.lines()),
    )


def _alike_but_for_case(classes: Sequence[str]) -> list[str]:
    """Say which classes have names that differ in case, spaces or Unicode form alone: one may be meant."""
    named: dict[str, list[str]] = {}
    for name in filter(None, classes):
        named.setdefault(" ".join(unicodedata.normalize("NFC", name).casefold().split()), []).append(name)
    alike = [f"{' and '.join(names)}" for names in named.values() if len(names) > 1]
    shown = f"{', '.join(alike[:3])}{' ...' if len(alike) > 3 else ''}"
    return (
        [f"warning: classes that differ in case, spaces or Unicode form alone stay apart: {shown}"]
        if alike
        else []
    )


def _called_as_splits(classes: Sequence[str]) -> list[str]:
    """Say which classes are called as splits are: test data may be among them.

    Of names with further words, such as `train_set`, that takes two.
    """
    called = [name for name in classes if split_in(name)]
    if len({split_in(name).lower() for name in called}) < 2:
        called = [name for name in classes if is_split(name)]
    if not called:
        return []
    return [
        f"warning: classes that are called as splits are: {', '.join(called)}; splits are a first level of "
        f"nothing but {', '.join(SPLITS)}; give one folder as the source to pack it alone"
    ]


def _lists_of_splits(tree: Tree) -> list[str]:
    """Say which lists of splits were not read: what they name as test data is packed with the rest."""
    if tree.has_splits or len(tree.findings.split_lists) < 2:
        return []
    shown = ", ".join(tree.findings.split_lists[:4]) + (" ..." if tree.findings.split_lists[4:] else "")
    return [f"warning: lists of splits are not read, and what they name is packed together: {shown}"]


def _tree(source: Path, rules: SourceRules) -> Tree:
    findings = Findings()
    require_readable(source)
    if source.is_dir():
        names = walk(source, rules.links, findings)
        findings.said += missing_parts(names)
        return Tree(source, rules, findings, dict.fromkeys(names))
    return Tree(source.parent, rules, findings, {source.name: None}, given=source.name)


def require_readable(source: Path) -> None:
    """Raise UserError for what is neither a folder nor a file of a kind that lists or holds samples."""
    if source.is_dir() or (source.is_file() and source.suffix.lower() in (".tar", *GIVEN)):
        return
    lone = source.suffix.lower() in READ_SUFFIXES
    hint = "; this is a single picture or film: give the folder that it is in" if lone else ""
    raise UserError("source", source, ACCEPTED + (hint if source.exists() else instead(source)))


def _wanted(item: Item, rules: SourceRules) -> Item:
    """Return the item without what the rules exclude."""
    if not rules.wants_text:
        more = {name: value for name, value in item.more.items() if name not in STORED}
        item = replace(item, text="", more=more)
    if rules.classes is not False:
        return item
    refused = None if item.refused and item.refused[0] == LABEL else item.refused
    return replace(item, label=-1, class_name="", refused=refused)


@dataclass
class _Counts:
    """Totals that are counted while samples are listed. pairs: as `numbering` takes them."""

    pairs: dict[Pair, str] = field(default_factory=dict)
    times: Counter[Pair] = field(default_factory=Counter)
    texts: int = 0
    unusable: int = 0

    def counting(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield the items unchanged and count them."""
        for item in items:
            if item.refused is None:
                pair = (item.label, item.class_name)
                self.pairs.setdefault(pair, item.name)
                self.times[pair] += 1
                self.texts += bool(item.text)
            else:
                self.unusable += 1
            yield item
