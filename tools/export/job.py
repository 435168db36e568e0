"""Write the weights of a training run as plain safetensors files, with what is needed to use them.

The folder holds `model.safetensors` (above `largest_file` several files with an index), the run's
`config.yaml`, `latents.json` and `autoencoder/`, `README.md`, the model card, and `export.json`, which says
what the weights are, and what every file hashes to. `sample` takes it in place of a run. Tensors are read and
written one after the other, so memory does not grow with the network. With `ema_sigma` the average of that
relative length is found from the power-function averages that the run kept (`ema.power_widths`), as in Karras
et al. 2024 (arXiv:2312.02696). With `format=diffusers` the folder is that of a DiTPipeline, as `convert`
writes it, where the network has that form; of all others it is an export that diffusers opens, too, by a
pipeline of its own (`own_pipeline`).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError, WorkError
from core.files import atomic_folder, write_text
from tools.cards.config import CardConfig
from tools.export.config import Config

if TYPE_CHECKING:
    import torch

    from core.checkpoint.tensor_file import Entry

__all__ = ["Config", "plan", "run"]


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    from core.checkpoint.weights import require_held

    source, output = Path(config.source), Path(config.output)
    checkpoint = _chosen(source, config.checkpoint, output, overwrite=config.overwrite)
    if not config.ema_sigma:
        require_held(checkpoint, config.weights)
    what = (
        f"the average of relative length {config.ema_sigma}"
        if config.ema_sigma
        else f"weights={config.weights}"
    )
    form = "as a DiTPipeline" if config.format == "diffusers" else f"in {config.dtype}"
    return [f"write {what} of {checkpoint} to {config.output}, {form}"]


def run(config: Config) -> None:
    """Export, whole or not at all; WorkError if the run is damaged."""
    from core.checkpoint import exported
    from core.progress import say
    from tools.cards.card import SAMPLED_BY
    from tools.export.own_pipeline import OPENED_BY, add_pipeline

    source, output = Path(config.source), Path(config.output)
    checkpoint = _chosen(source, config.checkpoint, output, overwrite=config.overwrite)
    opened_by = SAMPLED_BY
    if config.format == "diffusers":
        from tools.convert import pipeline

        try:
            settings = (config.weights, config.checkpoint, config.card, config.largest_file)
            return pipeline.write(source, output, *settings)
        except pipeline.Unfit as misfit:
            say(f"no DiTPipeline ({misfit}): diffusers opens the folder by the pipeline in it, with longtake")
            opened_by = OPENED_BY
    entries, record = _weights(checkpoint, source, config.weights, config.ema_sigma)
    with atomic_folder(output) as folder:
        record |= {"dtype": config.dtype}
        _describe(folder, source, record, entries, config.card, checkpoint, opened_by)
        if opened_by == OPENED_BY:
            add_pipeline(folder)
        record = exported.finish(folder, _cast(entries, config.dtype), record, config.largest_file)
    size = sum(file["size"] for file in record["files"].values())
    error = f", profile found to {record['profile_error']:.1%}" if config.ema_sigma else ""
    say(f"{output}: {len(entries)} tensors, {size / 2**20:.1f} MiB, step {record['step']}{error}")


def _chosen(source: Path, checkpoint: str, output: Path, *, overwrite: bool) -> Path:
    """Return the checkpoint to export; UserError for what can be seen before work starts."""
    from core.checkpoint.exported import is_export, read_record
    from core.checkpoint.weights import choose
    from core.run.folder import EXPORT
    from core.run.ways_out import holds
    from tools.runs.space_record import space_file

    space_file(source)
    if is_export(source):
        raise UserError("source", source, "the folder of a training run; this is an export already")
    if output.exists() and not ((output / EXPORT).is_file() and overwrite):
        if not (output / EXPORT).is_file():
            raise UserError("output", output, "a new folder; it exists")
        earlier = read_record(output)
        held = f"{earlier['weights']} of step {earlier['step']}, {holds(output)}"
        raise UserError("output", output, f"a new folder; overwrite=true replaces the export there: {held}")
    return choose(source, checkpoint)


def _weights(
    checkpoint: Path, run: Path, weights: str, ema_sigma: float
) -> tuple[list[Entry], dict[str, Any]]:
    """Return the whole state of the network, and the contents of `export.json` on it.

    weights: as `export` takes it.  ema_sigma: of an average to be found from those of the run; 0 is none.
    """
    from core.checkpoint.reader import CheckpointReader
    from core.checkpoint.reconstruct import reconstruct
    from core.checkpoint.weights import weight_entries

    reader, seen = CheckpointReader(checkpoint), {}
    if not ema_sigma:
        entries, average = weight_entries(checkpoint, weights), reader.average_of(weights)
    else:
        rebuilt = reconstruct(run, checkpoint, ema_sigma)
        entries = [*rebuilt.entries, *reader.fixed_entries()]
        seen = {"snapshots": rebuilt.snapshots, "profile_error": rebuilt.profile_error}
        weights = average = f"sigma={ema_sigma:g}"
    written = reader.state()
    return entries, {
        "checkpoint": checkpoint.name,
        "step": written["step"],
        "updates": written["updates"],
        "weights": weights,
        "average": average,
        "trained": sorted(reader.shapes),
        **seen,
    }


def _cast(entries: list[Entry], name: str) -> list[Entry]:
    """Cast the weights to another type as they are read; UserError then if a number is too large for it."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]

    def read(entry: Entry) -> torch.Tensor:
        tensor = entry.read()
        cast = tensor.to(dtype)
        if not bool(cast.isfinite().all()) and bool(tensor.isfinite().all()):
            raise UserError("dtype", name, f"fp32 or bf16: {entry.name} has numbers beyond its range")
        return cast

    return [
        replace(entry, dtype=dtype, read=partial(read, entry)) if entry.dtype.is_floating_point else entry
        for entry in entries
    ]


def _describe(
    folder: Path,
    run: Path,
    record: dict[str, Any],
    entries: list[Entry],
    card_config: CardConfig,
    checkpoint: Path,
    opened_by: str,
) -> None:
    """Fill the folder with all but the weights.  opened_by: lines that use them."""
    from core.run.folder import AUTOENCODER, CONFIG, INITIAL, LATENTS
    from tools.cards.card import CARD, card
    from tools.cards.facts import Written, facts_of

    trained = set(record["trained"])
    written = Written(
        run.resolve().name,
        record["checkpoint"],
        record["weights"],
        sum(entry.numbers for entry in entries if entry.name in trained),
        record["dtype"],
        record["step"],
        record["updates"],
    )
    try:
        text = card(facts_of(run, written, card_config, checkpoint), opened_by)
        for name in (CONFIG, LATENTS, *([INITIAL] if (run / INITIAL).is_file() else [])):
            shutil.copyfile(run / name, folder / name)
        shutil.copytree(run / AUTOENCODER, folder / AUTOENCODER)
    except FileNotFoundError as error:
        raise WorkError(f"{run} is not whole: {error.filename} is missing") from None
    write_text(folder / CARD, text)
