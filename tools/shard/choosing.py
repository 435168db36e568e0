"""Which samples of a source are packed, in which order, and into which shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from core.permutations import permutation
from core.progress import Progress, counted, say
from core.queue.pool import each
from core.records import publish
from data.dataset.schema import LEFT_OUT
from data.media.colour import ColourMode
from data.media.formats import MediaLimits
from data.raw.item import Item
from data.raw.item_store import Selection
from data.raw.survey import HygieneConfig, choose, chunks, found, look
from data.raw.writing import Check, ShardTask, cut


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Settings of `shard` that say how samples are packed, by the same names; see `tools.shard.config`."""

    seed: int
    name: str
    shuffle: bool
    samples_per_shard: int
    bytes_per_shard: int
    check: Check
    colour: ColourMode
    limits: MediaLimits


def chosen(
    items: Sequence[Item], hygiene: HygieneConfig, limits: MediaLimits, output: Path, processes: int
) -> Sequence[Item]:
    """Return the samples to pack, after every file was looked at where that is needed.

    output: the dataset's folder, which receives what was found.  processes: how many look at once.
    UserError if none is left.
    """
    if not hygiene.on:
        return items
    parts = chunks(output, items, hygiene, limits)
    unseen = [chunk for chunk in parts if not chunk.note.exists()]
    sizes = [len(chunk.items) for chunk in unseen]
    with Progress(len(items), "look", unit="files", done=len(items) - sum(sizes)) as progress:
        each(look, [(chunk,) for chunk in unseen], sizes, processes, progress)
    kept, left = choose(items, [facts for chunk in parts for facts in found(chunk)], hygiene)
    for reason, count in Counter(entry.reason for entry in left).most_common():
        say(f"left out: {count} x {reason}")
    if left:
        publish(output / LEFT_OUT, (entry._asdict() for entry in left))
    if not kept:
        raise UserError(f"nothing is left of {counted(len(items), 'file')}: {left[0].id}: {left[0].reason}")
    return kept


def shards_of(items: Sequence[Item], packing: Packing, output: Path) -> Iterator[ShardTask]:
    """Yield the shards to write, of the samples in the order in which they are packed."""
    if packing.shuffle:
        items = Selection(items, permutation(packing.seed, "shard", (), len(items)))
    for number, (start, stop) in enumerate(cut(items, packing.samples_per_shard, packing.bytes_per_shard)):
        yield ShardTask(
            folder=output,
            number=number,
            name=f"{packing.name}-{number:06d}.tar",
            first=start,
            items=items[start:stop],
            limits=packing.limits,
            check=packing.check,
            colour=packing.colour,
        )
