"""Begin a network from the weights of another one: tensors that are copied, adapted or new.

The two networks are of one kind. Fields of their configurations may differ only as the network allows: those
in its `unweighted`, on which no weight depends, and those that tags on its parameters name:

- `added_by = FIELD`: the parameter belongs to an input that FIELD adds (0 or false for none). Such an input
  is without effect at first, so a network that gains it computes what the other one does.
- `classes = True`: a table (classes + 1, D) with a row for each class and a last one for no class, as long as
  `num_classes` says. Rows follow the names of classes; the row of a new class begins as that of no class.
- `places = FIELD`: a learned table of places (T, H, W, D), whose size FIELD sets. It is interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from core.checkpoint.weights import Stored
from core.config.fields import to_dict
from core.config.loading import difference
from core.errors import UserError, WorkError
from core.progress import counted
from models.places import PLACES_RULE, fit_places
from models.weights import shapes_only

CLASSES = "num_classes"  # the field that says how many rows a table of classes has
SHOWN = 3  # names of tensors in a line


class Buildable(Protocol):
    """The configuration of any network that is trained here."""

    @property
    def kind(self) -> str: ...
    def build(self) -> nn.Module: ...


class Rows(NamedTuple):
    """Which row of the other network's table of classes each row is taken from.

    source: as long as the new table.  new: names of classes that the other network did not know.  known: how
    many it did.  moved: of these, how many had another label there.  left: names that have no row any more.
    """

    source: list[int]
    new: list[str]
    known: int
    moved: int
    left: list[str]


@dataclass(frozen=True)
class Transfer:
    """How each tensor of a network comes from those of another one, by its name.

    taken: as they are.  classes: tables whose rows follow names.  places: tables that are interpolated, with
    their shapes here.  new: tensors that begin as the network makes them, with the field that adds each.
    left: tensors of the other network that have no place here, likewise.  there: all shapes of that one.
    """

    taken: list[str]
    classes: list[str]
    places: dict[str, tuple[int, ...]]
    new: dict[str, str]
    left: dict[str, str]
    there: dict[str, tuple[int, ...]]
    rows: Rows | None

    @torch.no_grad()
    def apply(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Write the other network's whole tensors into `model`, whatever the type of either."""
        tensors = model.state_dict(keep_vars=True)
        for name in self.taken:
            tensors[name].detach().copy_(state[name])
        for name in self.classes:
            assert self.rows is not None
            tensors[name].detach().copy_(state[name][self.rows.source])
        for name, shape in self.places.items():
            tensors[name].detach().copy_(fit_places(state[name], shape))

    def defer(self, model: nn.Module, state: Stored) -> None:
        """Have the parameters of a network without weights take ranges of `state` as first values."""
        for name, parameter in model.named_parameters():
            if name in self.places or name in self.classes:
                parameter.first = partial(self._adapted, state, name)  # type: ignore[attr-defined]
            elif name not in self.new:
                parameter.first = partial(state.part, name)  # type: ignore[attr-defined]

    def _adapted(self, state: Stored, name: str, start: int, stop: int) -> Tensor:
        """Return a range of what becomes of a whole tensor."""
        places, source = self.places.get(name), self.rows.source if self.rows else []
        fitted = state[name][source] if places is None else fit_places(state[name], places)
        return fitted.flatten()[start:stop].float()

    def require_state(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Raise WorkError unless `state` has the other network's tensors, UserError if one is not finite."""
        found, bad = {}, []
        for name, tensor in state.items():
            found[name] = tuple(tensor.shape)
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                bad.append(name)
        if odd := sorted(set(found.items()) ^ set(self.there.items())):
            raise WorkError(f"{origin} does not fit its configuration: {odd[0][0]} is {odd[0][1]}")
        if bad:
            raise UserError(f"{origin} has numbers that are not finite, the first in {bad[0]}")

    def lines(self) -> list[str]:
        """Describe what becomes of all tensors, in a line for each way; names beyond a few are counted."""
        count = len(self.taken) + len(self.classes) + len(self.places) + len(self.new)
        found = [f"{len(self.taken)} of {count} tensors are taken as they are"]
        if self.classes and self.rows:
            new = f", new: {_few(self.rows.new)}, which begin as no class" if self.rows.new else ""
            moved = f" ({self.rows.moved} under other labels)" if self.rows.moved else ""
            left = f", left out: {_few(self.rows.left)}" if self.rows.left else ""
            tables = _few(self.classes)
            found.append(f"rows of {tables} by name: {self.rows.known} known{moved}{new}{left}")
        if self.places:
            shapes = [f"{name} {self.there[name]} to {shape}" for name, shape in self.places.items()]
            found.append(f"tables of places are interpolated ({PLACES_RULE}): {_few(shapes)}")
        for what, tensors in (("new, without effect at first", self.new), ("left out", self.left)):
            for field in dict.fromkeys(tensors.values()):
                names = [name for name, of in tensors.items() if of == field]
                found.append(f"{counted(len(names), 'tensor')} of {field}, {what}: {_few(names)}")
        return found

    def record(self) -> dict[str, Any]:
        """Return a run's record of it, as plain JSON values."""
        fitted = {"classes": self.classes, "places": list(self.places)}
        return {"taken": len(self.taken), **fitted, "new": list(self.new), "left": list(self.left)}


def plan_transfer(ours: Buildable, theirs: Buildable, origin: str, rows: Rows | None = None) -> Transfer:
    """Plan a network of `ours` from the tensors of one of `theirs`, of which only shapes are needed.

    origin: where that one is stored, for messages.  rows: where both have a table of classes.
    UserError names all fields in which the networks may not differ, and the first tensor that does not fit.
    """
    if ours.kind != theirs.kind:
        raise UserError("kind", ours.kind, f"{theirs.kind}, which {origin} is of")
    with shapes_only():
        here, there = ours.build(), theirs.build()
    differing = {path: (was, now) for path, was, now in difference(to_dict(theirs), to_dict(ours))}
    refused = {path: v for path, v in differing.items() if not _may_differ(path, v, here, there)}
    return _Matching(here, there, set(differing) - set(refused), rows).matched(refused, origin, ours)


class _Matching:
    """Tensors of two networks side by side, both on the meta device."""

    def __init__(self, here: nn.Module, there: nn.Module, changed: set[str], rows: Rows | None) -> None:
        self._tags, self._tags_there = dict(here.named_parameters()), dict(there.named_parameters())
        self._here, self._there = _shapes(here), _shapes(there)
        self._changed, self._rows = changed, rows

    def matched(self, refused: Mapping[str, tuple[Any, Any]], origin: str, ours: Buildable) -> Transfer:
        taken, classes, new, odd = [], [], {}, ""
        places: dict[str, tuple[int, ...]] = {}
        for name, shape in self._here.items():
            there, parameter = self._there.get(name), self._tags.get(name)
            if there is None and getattr(parameter, "added_by", None) in self._changed:
                new[name] = str(getattr(parameter, "added_by", ""))
            elif there is not None and getattr(parameter, "classes", False) and self._rows is not None:
                classes.append(name)
            elif there == shape:
                taken.append(name)
            elif there is not None and getattr(parameter, "places", None) in self._changed:
                places[name] = shape
            else:
                odd = odd or name
        left = {}
        for name in self._there.keys() - self._here.keys():
            field = getattr(self._tags_there.get(name), "added_by", None)
            if field in self._changed:
                left[name] = str(field)
            else:
                odd = odd or name
        if refused or odd:
            raise _refusal(refused, odd, self._here.get(odd), self._there.get(odd), origin, ours)
        left = {name: left[name] for name in self._there if name in left}
        return Transfer(taken, classes, places, new, left, self._there, self._rows)


def _may_differ(path: str, values: tuple[Any, Any], here: nn.Module, there: nn.Module) -> bool:
    """Return whether networks that differ in this field can still share weights."""
    field, (was, now) = path.partition(".")[0], values
    if field == "preset" or field in getattr(here, "unweighted", ()):
        return True  # what a preset stands for is compared field by field
    parameters = [*here.parameters(), *there.parameters()]
    if any(getattr(parameter, "added_by", None) == field for parameter in parameters):
        return not (was and now)
    by_name = {CLASSES} if any(getattr(p, "classes", False) for p in parameters) else set()
    return field in by_name | {getattr(parameter, "places", None) for parameter in parameters}


def _refusal(
    refused: Mapping[str, tuple[Any, Any]],
    name: str,
    here: tuple[int, ...] | None,
    there: tuple[int, ...] | None,
    origin: str,
    ours: Buildable,
) -> UserError:
    shapes = f": {name} is {_shape(here)} here and {_shape(there)} there" if name else ""
    if not refused:
        return UserError("kind", ours.kind, f"a network that fits {origin}{shapes}")
    (path, (was, now)), *others = refused.items()
    also = "".join(f"; and {other}={after}: expected {before}" for other, (before, after) in others)
    return UserError(path, now, f"{was}, with which {origin} was trained{shapes}{also}")


def class_rows(ours: Sequence[str], theirs: Sequence[str], count: int, count_there: int) -> Rows:
    """Find the row of a table of `count_there` classes from which each row of one of `count` comes.

    ours, theirs: names by label, of fewer classes than there are rows, or none. Without names here rows keep
    their labels. The row of a class that the other network did not know is that of no class.
    """
    none, labels = count_there, {name: label for label, name in enumerate(theirs)}
    source = []
    for label in range(count):
        if label < len(ours):
            source.append(labels.get(ours[label], none))
        else:
            source.append(label if label < count_there and (not ours or label >= len(theirs)) else none)
    known = [label for label, name in enumerate(ours) if name in labels]
    moved = sum(source[label] != label for label in known)
    new = [name for name in ours if name not in labels]
    left = [name for name in theirs if ours and name not in ours]
    return Rows([*source, none], new, len(known), moved, left)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(shape)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
