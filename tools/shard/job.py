"""Pack image and video files into WebDataset shards with manifest and index."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.config.yaml_files import read_recorded
from core.errors import UserError
from core.progress import Progress, counted, say
from core.queue.pool import each
from core.records import publish
from core.run.changes import Content, Contents
from core.run.claim import claim
from core.run.folder import CONFIG
from data.dataset.schema import LEFT_OUT, MANIFEST
from data.media.clips import ClipConfig
from data.media.colour import ColourMode
from data.media.formats import DEFAULT_LIMITS, MediaLimits
from data.raw.annotations.roles import ColumnsConfig
from data.raw.annotations.text_encoding import Encoding
from data.raw.duplicates import DuplicateConfig
from data.raw.filters import FilterConfig
from data.raw.rules import SourceRules

if TYPE_CHECKING:
    from data.raw.ingest import Listing
    from data.raw.item import Item
    from data.raw.survey import HygieneConfig
    from data.raw.writing import ShardTask


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to pack, and how."""

    job: ClassVar[str] = "shard"

    source: str = setting(
        REQUIRED,
        "folder (classes from sub-folders), table (.csv .tsv .jsonl .json .parquet) or .tar",
        shown="path",
        role="place",
    )
    output: str = setting(REQUIRED, "folder that receives the dataset", shown="path", role="place")
    seed: int = setting(0, "seed of the order in which samples are packed", low=0)
    overwrite: bool = setting(False, "pack again over a finished output", role="work")
    processes: int = setting(1, "shards written at the same time", low=1, role="work")
    name: str = setting("data", "what the names of the shards begin with")
    shuffle: bool = setting(True, "mix the samples over the shards; false keeps the order of the source")
    columns: ColumnsConfig = setting(ColumnsConfig(), "which columns of a table, or fields of JSON, are read")
    captions: str = setting(
        "",
        "suffix of the files beside pictures that hold their text (txt, caption, json, ...); none: no "
        "captions; empty: the first of txt, caption, prompt, text, then JSON",
        shown="suffix|none",
    )
    split: str = setting(
        "", "which splits of the source are packed, where it has several", shown="NAME[+NAME]"
    )
    links: Literal["inside", "follow"] = setting(
        "inside", "symbolic links: those to files of the source are read, or all, and linked folders too"
    )
    encoding: Encoding = setting(
        "auto", "of captions and tables without a byte-order mark; auto: UTF-8, and UTF-16 if it looks so"
    )
    classes: bool | None = setting(
        None, "true: names of kohya's folders are classes too; false: no classes and labels"
    )
    samples_per_shard: int = setting(1024, "most samples of a shard", unit="samples", low=1)
    bytes_per_shard: int = setting(
        2**30, "most bytes of media in a shard of several samples", unit="bytes", low=1
    )
    check: Literal["decode", "header"] = setting(
        "decode", "how far each file is decoded before it is packed; header: until its form shows"
    )
    colour: ColourMode = setting(
        "convert",
        "colours that are not BT.709 or sRGB (HDR, wide gamut, ICC profiles): brought to these wherever the "
        "dataset is read, set aside by name, or kept as their codes are",
    )
    limits: MediaLimits = setting(DEFAULT_LIMITS, "what is refused because it is too large")
    filters: FilterConfig = setting(FilterConfig(), "sizes, shapes, durations and rates that are wanted")
    duplicates: DuplicateConfig = setting(DuplicateConfig(), "repetitions that are left out")
    clips: ClipConfig = setting(ClipConfig(), "how long videos are cut into clips")
    quarantine_budget: float = setting(
        0.1,
        "unusable samples that do not stop the job: a fraction if below 1, else a number",
        low=0,
        role="work",
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", self.name):
            raise UserError("name", self.name, "letters, digits, - and _")

    @property
    def chooses(self) -> bool:
        """Whether files are looked at before they are packed."""
        return (self.filters, self.duplicates, self.clips) != (
            FilterConfig(),
            DuplicateConfig(),
            ClipConfig(),
        )


def plan(config: Config) -> list[str]:
    """Say what `run` would pack."""
    from data.raw.item_store import sizes_of

    listing = _listing(config)
    tasks = list(_tasks(config, listing.items))
    size = sum(sizes_of(listing.items))
    lines = [
        f"{len(listing.items)} samples, {size / 2**20:.1f} MiB, {len(listing.classes)} classes",
        f"{len(tasks)} shards {tasks[0].name} to {tasks[-1].name} in {config.output}",
    ]
    if config.chooses:
        lines.append("every file is looked at first; filters, duplicates and clips change these numbers")
    if listing.unusable:
        lines.append(f"{listing.unusable} of them are known to be unusable and will be set aside")
    return [*lines, *listing.said, listing.coverage]


def run(config: Config) -> None:
    """Write the shards that are missing, then index and manifest."""
    from data.dataset.faults import require_no_program_errors
    from data.dataset.index import Dataset
    from data.dataset.quarantine import BEYOND, Quarantine
    from data.dataset.schema import QUARANTINE
    from data.raw.findings import closing_lines
    from data.raw.unfinished import begin, drop_receipts
    from data.raw.writing import assemble, write_shard

    config = _as_begun(config)
    output = Path(config.output)
    finished = (output / MANIFEST).exists() and not config.overwrite
    if finished and claim(output, config, done=MANIFEST, overwrite=False) == "finished":
        drop_receipts(output)
        say(f"{output}: finished before")
        return
    listing = _listing(config)
    contents = _contents(output, listing)
    claim(output, config, done=MANIFEST, overwrite=config.overwrite, contents=contents)
    for line in listing.said:
        say(line)
    begin(output, listing.items)
    tasks = list(_tasks(config, _chosen(config, listing.items)))
    total = sum(len(task.items) for task in tasks)
    quarantine = Quarantine(output / QUARANTINE, total=total, budget=config.quarantine_budget, beyond=BEYOND)
    quarantine.check()
    left = [task for task in tasks if not task.finished]
    done = total - sum(len(task.items) for task in left)
    with Progress(total, "shard", done=done) as progress:
        if config.processes == 1 or len(left) == 1:
            for task in left:
                write_shard(task, quarantine, progress.advance)
        else:
            weights = [len(task.items) for task in left]
            each(write_shard, [(task, quarantine) for task in left], weights, config.processes, progress)
    manifest = assemble(output, tasks, listing.classes, quarantine, config.colour)
    aside = f"; {len(quarantine)} set aside, see {output / QUARANTINE}" if len(quarantine) else ""
    say(f"{output}: {counted(manifest.samples, 'sample')} in {counted(len(manifest.shards), 'shard')}{aside}")
    labels = int((Dataset(output).index["label"] >= 0).sum())
    for line in closing_lines(manifest, labels):
        say(line)
    require_no_program_errors(output)


def _as_begun(config: Config) -> Config:
    """Return the config that began this output in an earlier version, where `classes` was true by default."""
    record = Path(config.output) / CONFIG
    begun = record.is_file() and not config.overwrite
    if config.classes is None and begun and read_recorded(record).get("classes") is True:
        return replace(config, classes=True)
    return config


def _listing(config: Config) -> Listing:
    """List the source; UserError if it is of no use."""
    from data.raw.ingest import list_source

    _hygiene(config)
    source, output = Path(config.source), Path(config.output)
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise UserError("output", output, f"a folder outside of the source {source}")
    rules = SourceRules(**{field.name: getattr(config, field.name) for field in fields(SourceRules)})
    return list_source(source, replace(rules, captions=config.captions.strip().removeprefix(".")))


def _contents(output: Path, listing: Listing) -> Contents:
    """Return what the unfinished output records of its source, beside what the source lists now."""
    from data.raw.unfinished import listing_fingerprint, recorded_listing

    def contents(path: str) -> tuple[Content | None, Content]:
        before = recorded_listing(output)
        kept = None if before is None else {"listing": before}
        return kept, {"listing": listing_fingerprint(listing.items)}

    return contents


def _hygiene(config: Config) -> HygieneConfig:
    """Return how samples are chosen; UserError if a library for it is missing."""
    from data.raw.survey import HygieneConfig

    hygiene = HygieneConfig(filters=config.filters, duplicates=config.duplicates, clips=config.clips)
    hygiene.require_installed()
    return hygiene


def _chosen(config: Config, items: Sequence[Item]) -> Sequence[Item]:
    """Return the samples to pack, after every file was looked at where that is needed.

    UserError if none is left.
    """
    if not config.chooses:
        return items
    from data.raw.survey import choose, chunks, found, look

    hygiene = _hygiene(config)
    output = Path(config.output)
    parts = chunks(output, items, hygiene, config.limits)
    unseen = [chunk for chunk in parts if not chunk.note.exists()]
    sizes = [len(chunk.items) for chunk in unseen]
    with Progress(len(items), "look", unit="files", done=len(items) - sum(sizes)) as progress:
        each(look, [(chunk,) for chunk in unseen], sizes, config.processes, progress)
    chosen, left = choose(items, [facts for chunk in parts for facts in found(chunk)], hygiene)
    for reason, count in Counter(entry.reason for entry in left).most_common():
        say(f"left out: {count} x {reason}")
    if left:
        publish(output / LEFT_OUT, (entry._asdict() for entry in left))
    if not chosen:
        raise UserError(f"nothing is left of {len(items)} files: {left[0].id}: {left[0].reason}")
    return chosen


def _tasks(config: Config, items: Sequence[Item]) -> Iterator[ShardTask]:
    """Yield the shards to write, of the samples in the order in which they are packed."""
    from core.draws import permutation
    from data.raw.item_store import Selection
    from data.raw.writing import ShardTask, cut

    if config.shuffle:
        items = Selection(items, permutation(config.seed, "shard", (), len(items)))
    for number, (start, stop) in enumerate(cut(items, config.samples_per_shard, config.bytes_per_shard)):
        yield ShardTask(
            folder=Path(config.output),
            number=number,
            name=f"{config.name}-{number:06d}.tar",
            first=start,
            items=items[start:stop],
            limits=config.limits,
            check=config.check,
            colour=config.colour,
        )
