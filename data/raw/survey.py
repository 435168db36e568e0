"""Look at every file of a listing before it is packed, and choose: filters, duplicates, clips of videos.

Looking is split into chunks, which any process may do in any order; each leaves a note, so a killed job
continues. The choice is a function of the listing and the notes alone. The chosen samples are then packed as
if they had been the listing, so shards are full, whatever was left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypedDict

from core.config.settings import setting
from core.errors import UserError
from core.faults.failpoints import failpoint
from core.files import write_text
from core.progress import counted
from core.reading import json_files
from core.reading.json_files import Malformed
from core.reading.json_scalars import U64
from data.dataset.faults import Fault, attempt, keep_traceback
from data.media.clips import Clip, ClipConfig
from data.media.formats import IMAGE_FORMATS, Media, MediaError, MediaLimits, MediaRecord, suffix_of
from data.media.images import decode_media, probe
from data.media.remux import clips_of
from data.raw.duplicates import DuplicateConfig, near_duplicates, perceptual_hash
from data.raw.filters import FilterConfig
from data.raw.item import Item
from data.raw.unfinished import RECEIPTS

CHUNK = 64  # files
LOOKED_AT = (1 / 6, 1 / 2, 5 / 6)  # places of the frames that a video's perceptual hash uses


@dataclass(frozen=True, kw_only=True)
class HygieneConfig:
    """Rules for leaving samples out of the source and cutting its videos."""

    filters: FilterConfig = setting(FilterConfig(), "sizes, aspect ratios, durations and frame rates to keep")
    duplicates: DuplicateConfig = setting(DuplicateConfig(), "which duplicates to leave out")
    clips: ClipConfig = setting(ClipConfig(), "how to cut long videos")

    @property
    def on(self) -> bool:
        """Whether there is anything to look for."""
        return self != HygieneConfig()

    def require_installed(self) -> None:
        """Raise UserError if an optional library that the settings ask for is missing."""
        if self.duplicates.near >= 0 and find_spec("imagehash") is None:
            raise UserError(
                "duplicates.near", self.duplicates.near, "-1, or: pip install 'longtake[duplicates]'"
            )
        if self.clips.scenes and self.clips.cuts == "pyscenedetect" and find_spec("scenedetect") is None:
            raise UserError("clips.cuts", self.clips.cuts, "difference, or: pip install 'longtake[scenes]'")


class Facts(NamedTuple):
    """Facts found in one file. refused: (stage, reason) if it cannot be used.

    In that case the rest is empty.

    hashes: perceptual, of each picture that was looked at.  clips: None for a file that stays whole.
    """

    media: Media
    sha256: str
    hashes: tuple[int, ...]
    clips: tuple[Clip, ...] | None
    unit_s: float
    refused: tuple[str, str] | None


class _Noted(TypedDict):
    """`Facts` in the form of a note."""

    media: MediaRecord
    sha256: str
    hashes: tuple[U64, ...]
    clips: tuple[Clip, ...] | None
    unit_s: float
    refused: tuple[str, str] | None


class LeftOut(NamedTuple):
    """A sample that was not packed. detail: what it repeats, if it does."""

    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Chunk:
    """Some items to look at, the place of the note on them, and the output to be made."""

    note: Path
    output: Path
    items: tuple[Item, ...]
    config: HygieneConfig
    limits: MediaLimits


def chunks(output: Path, items: Sequence[Item], config: HygieneConfig, limits: MediaLimits) -> list[Chunk]:
    """Split the listing into chunks; their notes lie beside the receipts of shards."""
    notes = output / RECEIPTS
    return [
        Chunk(
            notes / f"survey-{start // CHUNK:06d}.json",
            output,
            tuple(items[start : start + CHUNK]),
            config,
            limits,
        )
        for start in range(0, len(items), CHUNK)
    ]


def look(chunk: Chunk) -> None:
    """Look at the items of a chunk and publish the note."""
    facts = [_facts(item, chunk) for item in chunk.items]
    failpoint("survey.note")
    write_text(chunk.note, json.dumps([fact._asdict() | {"media": fact.media.to_json()} for fact in facts]))


def found(chunk: Chunk) -> list[Facts]:
    """Read the facts that `look` noted."""
    entries = json_files.read(chunk.note, list[_Noted])
    if len(entries) != len(chunk.items):
        raise Malformed(f"{chunk.note}: {len(entries)} entries for {counted(len(chunk.items), 'file')}")
    try:
        media = [Media.from_json(entry["media"]) for entry in entries]
    except ValueError as error:
        raise Malformed(f"{chunk.note}: {error}") from None
    return [
        Facts(one, entry["sha256"], entry["hashes"], entry["clips"], entry["unit_s"], entry["refused"])
        for one, entry in zip(media, entries, strict=True)
    ]


def _facts(item: Item, chunk: Chunk) -> Facts:
    nothing = Facts(Media(0, 0, 0, 0.0), "", (), None, 0.0, item.refused)
    if item.refused is not None:
        return nothing
    data = attempt(lambda: item.read(chunk.limits), "read", item.name)
    found = (
        data
        if isinstance(data, Fault)
        else attempt(lambda: _shown(data, chunk.config, chunk.limits), "decode", item.name)
    )
    if isinstance(found, Fault):
        keep_traceback(chunk.output, item.name, found)
        return nothing._replace(refused=(found.stage, found.error))
    return found


def _shown(data: bytes, config: HygieneConfig, limits: MediaLimits) -> Facts:
    """Return what the bytes of a file show; MediaError if they cannot be decoded or cut."""
    media = probe(data, limits, colour="keep")  # packing refuses what is to be refused
    hashes = _hashes(data, media, limits) if config.duplicates.near >= 0 else ()
    clips, unit_s = None, 0.0
    if config.clips.on and media.fps > 0 and suffix_of(data) in IMAGE_FORMATS:
        if config.clips.scenes or media.seconds > config.clips.length_s:
            raise MediaError("is an animated picture, which is not cut into clips: make a video of it")
    elif config.clips.on and media.fps > 0:
        clips, unit_s = clips_of(data, config.clips, limits)
    digest = hashlib.sha256(data).hexdigest() if config.duplicates.exact else ""
    return Facts(media, digest, hashes, clips, unit_s, None)


def _hashes(data: bytes, media: Media, limits: MediaLimits) -> tuple[int, ...]:
    numbers = [int(media.frames * part) for part in LOOKED_AT] if media.frames > 1 else [0]
    pictures = [decode_media(data, limits, frames=(number, 1, 1))[0] for number in numbers]
    return tuple(perceptual_hash(picture) for picture in pictures)


def choose(
    items: Sequence[Item], facts: Sequence[Facts], config: HygieneConfig
) -> tuple[list[Item], list[LeftOut]]:
    """Return the items to pack, in their order, and those left out. Unusable ones stay, to be set aside.

    A file is compared with others only if something of it passes the filters; its clips are not compared.
    """
    left: list[LeftOut] = []
    passed: list[tuple[Item, Facts, list[Item]]] = []
    for item, fact in zip(items, facts, strict=True):
        if fact.refused is not None:
            passed.append((item, fact, [replace(item, refused=fact.refused)]))
            continue
        if lost := _lost_frames(fact, config.clips):
            left.append(
                LeftOut(item.name, "frames before the first keyframe of a scene", counted(lost, "frame"))
            )
        wanted = []
        for part, media in _parts(item, fact):
            if reason := config.filters.reason(media):
                left.append(LeftOut(part.name, reason, ""))
            else:
                wanted.append(part)
        if wanted:
            passed.append((item, fact, wanted))
    repeated = _repeated(passed, config.duplicates)
    left += [LeftOut(passed[n][0].name, *why) for n, why in sorted(repeated.items())]
    chosen = [part for n, (_, _, parts) in enumerate(passed) if n not in repeated for part in parts]
    return chosen, left


def _lost_frames(fact: Facts, config: ClipConfig) -> int:
    """Count the frames that no clip has although none was asked to be skipped."""
    if fact.clips is None or config.stride_s:
        return 0
    return fact.media.frames - sum(clip.frames for clip in fact.clips)


def _parts(item: Item, fact: Facts) -> Iterator[tuple[Item, Media]]:
    """Yield the samples that a file gives, each with what it shows."""
    if fact.clips is None:
        yield item, fact.media
        return
    for clip in fact.clips:
        lasts = clip.frames / fact.media.rate
        begin, end = clip.begins * fact.unit_s, clip.begins * fact.unit_s + float(lasts)
        # named as W3C Media Fragments URI 1.0 (section 4.2.1) does
        name = f"{item.name}#t={begin:g},{end:g}"
        yield replace(item, name=name, clip=clip), fact.media._replace(frames=clip.frames, duration=lasts)


def _repeated(
    passed: Sequence[tuple[Item, Facts, list[Item]]], config: DuplicateConfig
) -> dict[int, tuple[str, str]]:
    """Return {position: (reason, name of the file that stays)} for all that repeat another."""
    repeated: dict[int, tuple[str, str]] = {}
    first: dict[str, int] = {}
    for number, (_, fact, _) in enumerate(passed):
        if fact.sha256 and (earlier := first.setdefault(fact.sha256, number)) != number:
            repeated[number] = ("the same bytes as another file", passed[earlier][0].name)
    if config.near >= 0:
        rest = [n for n in range(len(passed)) if n not in repeated]
        rest.sort(key=lambda n: -passed[n][1].media.width * passed[n][1].media.height)  # the largest stays
        pairs = near_duplicates([passed[n][1].hashes for n in rest], config.near)
        for place, earlier in pairs:
            repeated[rest[place]] = ("looks like another file", passed[rest[earlier]][0].name)
    return repeated
