"""The record of a run's latents, `latents.json` and `autoencoder/`: with weights, all that sampling needs.

A run folder can so be moved to another machine without the cache it was trained on.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.config import PathRecord, path_record
from core.errors import UserError
from core.files import atomic_folder, sealed, write_json
from core.reading import json_files
from core.reading.instead import instead
from core.run.folder import AUTOENCODER, LATENTS
from data.latent.normalising import Normaliser
from data.latent.reading import compare
from data.loading.sources.kinds import LatentSource
from models.autoencoder import store
from models.autoencoder.opening import files, identify_saved
from tools.runs.normalisers import LatentsConfig
from tools.runs.path_record import SCHEDULE, TIMES
from tools.runs.space_record import ADDED_LATER, FPS, LEARNT, NOT_COMPARED, TEXT_FOLDER, read_space


def keep_latent_space(
    run: Path,
    source: LatentSource,
    autoencoder: Path,
    objective: ObjectiveConfig,
    normaliser: Normaliser,
    latents: LatentsConfig,
    *,
    text: bool = False,
    path: PathRecord | None = None,
    density: Sequence[float] = (),
) -> None:
    """Publish `autoencoder/` and then `latents.json` in the run folder, once; they stay as they are.

    text: whether the network takes text.  path: as `settle_path` gives it; None reads what the objective
    names.  density: of times, from a file.
    UserError where the run was begun on other latents than `source` has (the differing field, both values).
    """
    record = describe(source, objective, normaliser, latents, text=text, path=path, density=density)
    if (run / LATENTS).exists():
        before = ADDED_LATER | read_space(run)
        before = {SCHEDULE: PathRecord.of(before["path"], before.get(SCHEDULE)).parameters()} | before
        before |= {name: record[name] for name in (*NOT_COMPARED, *(LEARNT.keys() - before.keys()))}
        if _are_moved(before["cache"], record["cache"]):
            before["cache"] = record["cache"]
        if (differs := compare(before, record)) is not None:
            field, was, now = differs
            raise UserError(f"{run} was begun with {field}={was}; in {source.facts.place} it is {now}")
        return
    copy_autoencoder(autoencoder, run)
    write_json(run / LATENTS, sealed(json_files.plain(record)))


def describe(
    source: LatentSource,
    objective: ObjectiveConfig,
    normaliser: Normaliser,
    latents: LatentsConfig,
    *,
    text: bool,
    path: PathRecord | None = None,
    density: Sequence[float] = (),
) -> dict[str, Any]:
    """Return the content of `latents.json`.

    mean, std: per channel; the network sees (latent - mean) / std.  normalise: where these are from.
    encoder, cache: fingerprints, {place: fingerprint} for the caches of a mixture.  text: what embedded the
    captions, None if the network takes none; text_folder: where that lay.
    classes: names by label.  shapes: [C, T, H, W] of each bucket, the one with most samples first.
    path, prediction, learned_sigma: how the network was trained, as in `core.diffusion`.  schedule: the
    path's parameters, rates read from a file among them.  times: densities read from a file, or None.
    null_share: of samples trained without label, and without text; None where that is not known.
    dropout: what training dropped of them: both together, and of the others each alone.
    fps: frames a second of most clips; None where that is not known.
    untrained_classes: names of classes without a sample.
    """
    facts, found = source.facts, source.conditions()
    path = path or path_record(objective.path, objective.schedule)
    samples: Counter[tuple[int, ...]] = Counter()
    for shape, count in zip(facts.latent_shapes, source.sample_counts(), strict=True):
        samples[shape] += count
    return {
        **normaliser.as_dict(),
        "normalise": latents.normalise,
        "text": facts.text_encoder if text else None,
        TEXT_FOLDER: source.encoded_with("text_encoder") if text else "",
        "cache": dict(facts.parts) if len(facts.parts) > 1 else facts.fingerprint,
        "encoder": facts.encoder,
        "classes": list(facts.classes),
        "shapes": [list(shape) for shape, _ in samples.most_common()],
        "path": path.name,
        SCHEDULE: json_files.plain(path.parameters()),
        TIMES: list(density) or None,
        "prediction": objective.prediction,
        "learned_sigma": objective.learned_sigma,
        "null_share": {
            "label": _null_share(objective.dropout_of("label"), found.unlabelled, facts.samples),
            "text": _null_share(objective.dropout_of("text"), found.textless, facts.samples)
            if text
            else None,
        },
        "dropout": {
            "both": objective.label_dropout,
            "label": objective.class_dropout,
            "text": objective.text_dropout,
        },
        FPS: facts.fps,
        "untrained_classes": [
            name for name, count in zip(facts.classes, found.by_class, strict=True) if not count
        ],
    }


def _null_share(dropout: float, without: int | None, samples: int) -> float | None:
    """Return the share of samples shown without a condition: what is dropped, and what has none."""
    if without is None:
        return dropout or None  # some are dropped; without dropout some may have none
    return dropout + (1 - dropout) * without / max(1, samples)


def find_autoencoder(source: LatentSource, configured: str) -> Path:
    """Return the folder of the latents' autoencoder: the configured one, or the one given to `encode`.

    UserError where there is none, or where it is another one (the differing field and both values).
    """
    facts = source.facts
    if "encoder_config" not in facts.made_from:
        expected = (
            "a cache that says what encoded it; `inspect CACHE action=reindex autoencoder=FOLDER` states it"
        )
        raise UserError("source", facts.place, expected)
    folder, made_by = configured or source.encoded_with("autoencoder"), facts.encoder[:12]
    try:
        place = store.locate(Path(folder))
    except UserError:
        expected = f"the folder of the autoencoder {made_by}, which made {facts.place}"
        expected += instead(Path(folder)) if folder else ""
        raise UserError("autoencoder", folder or "''", expected) from None
    now, then = identify_saved(place), facts.made_from
    names = ("encoder_config", "encoder")
    if (differs := compare(*({name: made[name] for name in names} for made in (then, now)))) is not None:
        field, was, found = differs
        expected = f"the one that made {facts.place}, with {field}={was}; this one has {field}={found}"
        raise UserError("autoencoder", folder, expected)
    return place


def _are_moved(before: Any, now: Any) -> bool:
    """Return whether the caches of a mixture are the same ones at other places.

    Checkpoints compare their order.
    """
    are_several = isinstance(before, dict) and isinstance(now, dict)
    return are_several and sorted(before.values()) == sorted(now.values())


def copy_autoencoder(source: Path, run: Path) -> None:
    """Publish the autoencoder's folder as RUN/autoencoder, whole or not at all."""
    with atomic_folder(run / AUTOENCODER) as folder:
        for path in files(source):
            shutil.copyfile(path, folder / path.name)
