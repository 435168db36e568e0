"""Class numbers and names: what a source gives of them, made into one table of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from core.errors import UserError
from data.raw.item import Item

MOST_CLASSES = 1_000_000
Pair = tuple[int, str]  # label (-1: none) and class name ("": none) of a sample


def with_labels(items: Iterable[Item]) -> tuple[list[Item], tuple[str, ...]]:
    """Give every item with a class its label, and return the names of the classes (see `numbering`)."""
    items = list(items)
    labels, classes = numbering(pairs_of(items))
    return [
        replace(item, label=label, class_name=name)
        for item in items
        for label, name in (labels(item.label, item.class_name),)
    ], classes


def pairs_of(items: Iterable[Item]) -> dict[Pair, str]:
    """Return {(label, class name): first sample that has them} over the samples that can be used."""
    pairs: dict[Pair, str] = {}
    for item in items:
        if item.refused is None:
            pairs.setdefault((item.label, item.class_name), item.name)
    return pairs


def numbering(pairs: Mapping[Pair, str]) -> tuple[Callable[[int, str], Pair], tuple[str, ...]]:
    """Return a function from a sample's label and class name to the final ones, and the classes' names.

    Numbers given by the source are kept (a class without a name is called by its number); where there are
    none, names are numbered in sorted order. UserError if a number has two names or a name two numbers.
    """
    names = _numbered_names(pairs)
    if not names:
        names = dict(enumerate(sorted({name for _, name in pairs} - {""})))
    numbers = {name: number for number, name in names.items()}
    if len(numbers) != len(names):
        double = Counter(names.values()).most_common(1)[0][0]
        raise UserError(f"class {double!r} has more than one label")

    def final(label: int, name: str) -> Pair:
        label = label if label >= 0 else numbers.get(name, -1)
        return label, names.get(label, "")

    for (label, name), sample in pairs.items():
        if name and final(label, name)[0] < 0:
            number, numbered = next((pair[0], other) for pair, other in pairs.items() if pair[0] >= 0)
            raise UserError(
                f"{sample} is of class {name!r}, which has no number, and {numbered} of class {number}; "
                "write all classes as numbers or all as names, or both of each (fields label and class)"
            )
    return final, tuple(names[number] for number in sorted(names))


def _numbered_names(pairs: Mapping[Pair, str]) -> dict[int, str]:
    """Return {label: name} for labels that the source gives, without gaps; {} if it gives none."""
    given: dict[int, str] = {}
    for (label, name), sample in pairs.items():
        if label >= 0:
            known = given.setdefault(label, name)
            if name and known and known != name:
                raise UserError(f"{sample}: label {label} is class {name!r} and {known!r}")
            given[label] = known or name
    if not given:
        return {}
    if max(given) >= MOST_CLASSES:
        raise UserError("label", max(given), f"a class number below {MOST_CLASSES}")
    return {number: given.get(number) or str(number) for number in range(max(given) + 1)}


def known_names(found: tuple[str, ...], before: tuple[str, ...]) -> tuple[str, ...]:
    """Return the previous classes if those found agree with them; a class without samples shows in no tar."""
    agree = len(before) >= len(found) and all(
        name in (before[number], str(number)) for number, name in enumerate(found)
    )
    return before if agree else found
