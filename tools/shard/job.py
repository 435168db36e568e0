"""Pack image and video files into WebDataset shards with manifest and index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.config.sections import section
from core.config.yaml_files import read_recorded
from core.progress import Progress, counted, say
from core.queue import full_disk
from core.queue.pool import each
from core.run.changes import Content, Contents
from core.run.claim import claim
from core.run.folder import CONFIG
from data.dataset.schema import MANIFEST, QUARANTINE
from data.raw.rules import SourceRules
from tools.shard.config import Config, require_outside

if TYPE_CHECKING:
    from data.dataset.manifest import DatasetManifest
    from data.dataset.quarantine import Quarantine
    from data.raw.ingest import Listing


def plan(config: Config) -> list[str]:
    """Say what `run` would pack."""
    from data.raw.item_store import sizes_of
    from data.raw.survey import HygieneConfig
    from tools.shard.choosing import Packing, shards_of
    from tools.shard.holding_out import part_of

    output, hygiene = Path(config.output), section(HygieneConfig, config)
    hygiene.require_installed()
    listing = _listing(Path(config.source), output, section(SourceRules, config))
    listing = part_of(listing, config.part, config.held_out)
    tasks = list(shards_of(listing.items, section(Packing, config), output))
    size = sum(sizes_of(listing.items))
    lines = [
        f"{counted(len(listing.items), 'sample')}, {size / 2**20:.1f} MiB, "
        f"{counted(len(listing.classes), 'class', 'classes')}",
        f"{len(tasks)} shards {tasks[0].name} to {tasks[-1].name} in {config.output}",
    ]
    if hygiene.on:
        lines.append("every file is looked at first; filters, duplicates and clips change these numbers")
    if listing.unusable:
        lines.append(f"{listing.unusable} of them are known to be unusable and will be set aside")
    return [*lines, *listing.said, listing.coverage]


def run(config: Config) -> None:
    """Write the shards that are missing, then index and manifest."""
    from data.dataset.faults import require_no_program_errors
    from data.dataset.quarantine import BEYOND, Quarantine
    from data.raw.survey import HygieneConfig
    from data.raw.unfinished import begin, drop_receipts
    from data.raw.writing import assemble, write_shard
    from tools.shard.choosing import Packing, chosen, shards_of
    from tools.shard.holding_out import part_of

    output = Path(config.output)
    if not config.overwrite:
        config = replace(config, classes=_classes_as_begun(output, config.classes))
    finished = (output / MANIFEST).exists() and not config.overwrite
    if finished and claim(output, config, done=MANIFEST, overwrite=False) == "finished":
        drop_receipts(output)
        say(f"{output}: finished before")
        return
    hygiene = section(HygieneConfig, config)
    hygiene.require_installed()
    listing = _listing(Path(config.source), output, section(SourceRules, config))
    listing = part_of(listing, config.part, config.held_out)
    contents = _contents(output, listing)
    claim(output, config, done=MANIFEST, overwrite=config.overwrite, contents=contents)
    for line in listing.said:
        say(line)
    with full_disk.naming_output(output):
        begin(output, listing.items)
        items = chosen(listing.items, hygiene, config.limits, output, config.processes)
        tasks = list(shards_of(items, section(Packing, config), output))
        total = sum(len(task.items) for task in tasks)
        quarantine = Quarantine(
            output / QUARANTINE, total=total, budget=config.quarantine_budget, beyond=BEYOND
        )
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
    _say_result(output, manifest, quarantine)
    require_no_program_errors(output)


def _say_result(output: Path, manifest: DatasetManifest, quarantine: Quarantine) -> None:
    """Say what was packed, with what was met in it."""
    from data.dataset.index import Dataset
    from data.raw.findings import closing_lines

    aside = f"; {len(quarantine)} set aside, see {output / QUARANTINE}" if len(quarantine) else ""
    say(f"{output}: {counted(manifest.samples, 'sample')} in {counted(len(manifest.shards), 'shard')}{aside}")
    labels = int((Dataset(output).index["label"] >= 0).sum())
    for line in closing_lines(manifest, labels):
        say(line)


def _classes_as_begun(output: Path, classes: bool | None) -> bool | None:
    """Return the setting `classes` with which an earlier version began this output; its default was true."""
    begun = (output / CONFIG).is_file()
    return (
        True
        if classes is None and begun and read_recorded(output / CONFIG).get("classes") is True
        else classes
    )


def _listing(source: Path, output: Path, rules: SourceRules) -> Listing:
    """List the source; UserError if it is of no use."""
    from data.raw.ingest import list_source

    require_outside(output, source)
    return list_source(source, replace(rules, captions=rules.captions.strip().removeprefix(".")))


def _contents(output: Path, listing: Listing) -> Contents:
    """Return what the unfinished output records of its source, beside what the source lists now."""
    from data.raw.unfinished import listing_fingerprint, recorded_listing

    def contents(path: str) -> tuple[Content | None, Content]:
        before = recorded_listing(output)
        kept = None if before is None else {"listing": before}
        return kept, {"listing": listing_fingerprint(listing.items)}

    return contents
