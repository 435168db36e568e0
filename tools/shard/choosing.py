"""Choose the samples of a source that are packed, their order, and their shards."""

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
from data.media.clips import ClipConfig
from data.media.colour import ColourMode
from data.media.formats import MediaLimits
from data.raw.item import Item
from data.raw.item_store import Selection
from data.raw.survey import Facts, HygieneConfig, choose, chunks, found, look
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
    facts = [fact for chunk in parts for fact in found(chunk)]
    for line in cut_lines(facts, hygiene.clips) if hygiene.clips.on else ():
        say(line)
    kept, left = choose(items, facts, hygiene)
    for reason, count in Counter(entry.reason for entry in left).most_common():
        say(f"left out: {count} x {reason}")
    if left:
        publish(output / LEFT_OUT, (entry._asdict() for entry in left))
    if not kept:
        raise UserError(f"nothing is left of {counted(len(items), 'file')}: {left[0].id}: {left[0].reason}")
    return kept


def cut_lines(facts: Sequence[Facts], config: ClipConfig) -> Iterator[str]:
    """Yield what becomes of videos that are cut, and how many clips last longer than was asked for."""
    cut_up = [(fact.media.rate, fact.clips) for fact in facts if fact.clips]
    seconds = [float(clip.frames / rate) for rate, clips in cut_up for clip in clips]
    if seconds:
        yield (
            f"cut: {counted(len(cut_up), 'video')} into {counted(len(seconds), 'clip')} of "
            f"{min(seconds):.3g} to {max(seconds):.3g} s"
        )
    seconds += [fact.media.seconds for fact in facts if fact.clips is None and fact.media.frames > 1]
    if long := sum(config.length_s > 0 and each > 2 * config.length_s for each in seconds):
        yield (
            f"warning: {counted(long, 'clip')} of more than twice clips.length_s={config.length_s:g}, up to "
            f"{max(seconds):.3g} s: packets are copied, so that a clip begins at a keyframe, "
            "and videos may have few; "
            "`ffmpeg -i IN -g 30 OUT` writes one every 30 frames, and compresses anew"
        )


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
