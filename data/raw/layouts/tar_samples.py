"""WebDataset tars: members of one key are a sample; folders in a tar, or around it, are classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from core.errors import UserError, WorkError
from core.progress import counted
from data.dataset.tars import APART, Member, TarSample, members, read_member, samples
from data.media.formats import media_names
from data.raw.annotations.captions import carrier, read_tar_annotation, reads
from data.raw.annotations.split_names import is_split
from data.raw.annotations.text_encoding import LOOKED_AT
from data.raw.ignored import LateNames, ignored_as, owners_among
from data.raw.item import Item, printable
from data.raw.layouts.splits import chosen
from data.raw.layouts.tar_per_class import classes_by_name, fits, not_taken
from data.raw.layouts.tree import Tree, with_annotation
from data.raw.tables.kinds import READERS


class _Tar(NamedTuple):
    """A tar, and its name in the tree."""

    path: Path
    name: str


def read(tree: Tree) -> Iterable[Item]:
    """Yield the samples of all tars, tar by tar."""
    names = [name for name in tree.left if name.lower().endswith(".tar")]
    tree.take(names)
    if not tree.given:
        tree.pass_by(names)
    words = classes_by_name(names)
    meaning = _meaning(tree, names, words)._replace(words=words)
    nameless = False
    for name in names:
        with tree.findings.collecting():
            for item in _items(tree, name, meaning):
                nameless = nameless or not (item.refused or item.class_name or item.label >= 0)
                yield item
    if words and nameless and tree.rules.classes is None:
        tree.findings.said.append(not_taken("tars", words.values()))


class _Meaning(NamedTuple):
    """The meaning of tars and of the folders in them.

    around: the one folder that holds all samples and is no class, "" for none.  splits: those to pack, () for
    none in the tars.  classes: class by tar, {} if tars are not classes.  words: what tars are called, which
    are classes where `classes=true` says so and nothing else names one.
    """

    around: str = ""
    splits: tuple[str, ...] = ()
    classes: Mapping[str, str] = MappingProxyType({})
    words: Mapping[str, str] = MappingProxyType({})


def _meaning(tree: Tree, names: list[str], classes: Mapping[str, str]) -> _Meaning:
    """Find out what tars and folders in them are.

    Tars are read only as long as any of it may still be so, which of ordinary shards is the first one.
    """
    firsts, seconds = Counter[str](), Counter[str]()
    may_split, around = not tree.skip, True
    for name in names:
        try:
            keys = [s.key for s in samples(tree.source / name, _is_passed_over) if media_members(s)]
        except WorkError:
            continue  # reported where its samples are read
        folders = [(*_folders(key), "", "")[:2] for key in keys]
        firsts.update(first for first, _ in folders)
        seconds.update(second for _, second in folders)
        may_split = may_split and all(map(is_split, firsts))
        around = len(firsts) <= 1 and "" not in firsts
        classes = classes if classes and fits(name, keys) else {}
        if not may_split and not classes and not around:
            return _Meaning()
    if classes:
        named = counted(len(set(classes.values())), "class", "classes")
        tree.findings.said.append(f"a tar for each class, named after it: {named}")
    whole = ""
    if around and firsts and not may_split and not classes and len(set(seconds) - {""}) > 1:
        (whole,) = firsts
        tree.findings.said.append(f"the folder {printable(whole)}/ around all samples is no class")
        firsts, may_split = seconds, not tree.skip and all(map(is_split, seconds))
    if not may_split or not firsts:
        return _Meaning(whole, (), classes)
    wanted = tuple(chosen(tree, firsts, "sample"))
    tree.findings.said.append(f"splits packed: {', '.join(wanted)}")
    return _Meaning(whole, wanted, classes)


def _is_passed_over(name: str) -> bool:
    return bool(ignored_as(name.removeprefix("./")))


def _folders(key: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(key).parts[:-1] if part != ".")


def _items(tree: Tree, name: str, meaning: _Meaning) -> Iterator[Item]:
    path, splits = tree.source / name, meaning.splits
    ignored: Counter[str] = Counter()
    owners = LateNames(owners_among(member.name.removeprefix("./") for member in members(path)))

    def is_passed_over(member: str) -> bool:
        kind = ignored_as(member.removeprefix("./"), owners)
        ignored.update([kind] if kind else [])
        return bool(kind)

    found = list(samples(path, is_passed_over))
    tree.findings.ignored.update(ignored)
    tar = _Tar(path, name)
    times = Counter(sample.key for sample in found)  # more than one: its members lie apart
    with open(path, "rb", opener=tree.opener(name)) as file:
        for sample in found:
            folders = _folders(sample.key)[1 if meaning.around else 0 :]
            if splits and folders and folders[0] not in splits:
                tree.findings.ignored[f"of split {folders[0]}"] += 1
                continue
            media = media_members(sample, tree.rules.columns.path)
            if not media and _is_table(tree, tar, sample):
                continue
            if sample.refused or len(media) != 1 or times[sample.key] > 1:
                names = f" ({', '.join(member.name for member in media)})" if media else ""
                count = (
                    f"has {len(media)} images or videos{printable(names)}, expected 1{_way(sample, media)}"
                )
                reason = sample.refused or (count if len(media) != 1 else APART)
                yield Item(printable(f"{tar.name}/{sample.key}"), tar.path, 0, 0, refused=("list", reason))
                continue
            _note_members(tree, tar, file.fileno(), sample, media[0])
            inner = folders[1:] if splits else folders
            yield _item(tree, tar, file.fileno(), sample, media[0], meaning, inner)


def _item(
    tree: Tree,
    tar: _Tar,
    file: int,
    sample: TarSample,
    media: Member,
    meaning: _Meaning,
    folders: tuple[str, ...],
) -> Item:
    """Return the sample of one picture or film of a tar."""
    rules = tree.rules
    annotation = read_tar_annotation(file, tar.path, sample, rules.columns, rules.captions, rules.encoding)
    if annotation.class_name == "" and annotation.label < 0:
        outside = "" if tree.given else tree.class_of(tar.name)
        inside = printable(folders[0]) if folders else ""
        word = meaning.words.get(tar.name, "") if rules.classes else ""
        class_name = outside or meaning.classes.get(tar.name, "") or inside or word
        annotation = replace(annotation, class_name=class_name)
    tree.note(annotation)
    item = Item(
        printable(f"{tar.name}/{media.name}"),
        tar.path,
        media.content,
        media.size,
        within=tree.within(tar.name),
    )
    return with_annotation(item, annotation)


def media_members(sample: TarSample, wanted: str = "") -> list[Member]:
    """Return the members of a tar sample that are images or videos by their suffix (`jpg`, `rgb.png`).

    wanted: the suffix that alone counts in samples that have it, as `columns.path` names it.
    """
    found = media_names(sample.members)
    return [sample.members[suffix] for suffix in ([wanted] if wanted in found else found)]


def _way(sample: TarSample, media: list[Member]) -> str:
    """Say how one of several pictures is chosen, or what a sample has that is none."""
    if not media:
        return f"; its members: {printable(', '.join(list(sample.members)[:6]))}"
    return f"; columns.path={printable(media_names(sample.members)[0])} takes the first" if media[1:] else ""


def _note_members(tree: Tree, tar: _Tar, file: int, sample: TarSample, media: Member) -> None:
    """Note the members of a sample that nothing reads."""
    for suffix, member in sample.members.items():
        if member is not media and not reads(suffix, tree.rules.captions):
            head = member._replace(size=min(member.size, LOOKED_AT))
            tree.findings.add_companion(suffix, partial(read_member, file, tar.path, head))


def _is_table(tree: Tree, tar: _Tar, sample: TarSample) -> bool:
    """Return whether a sample without picture is a table, or a tar in a tar, which nothing here reads."""
    for suffix, member in sample.members.items():
        if suffix == "tar":
            raise UserError(f"{tar.path}: holds the tar {member.name}; unpack it first, and give the folder")
        if f".{suffix}" in READERS and carrier(suffix) is None:
            tree.findings.add_table(f"{tar.name}/{member.name}")
            return True
    return False
