"""A training run, opened for sampling: network, latent space, autoencoder, and which weights these are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch

from core.checkpoint import exported, format
from core.checkpoint.weights import choose, load_weights, require_held
from core.config.loading import from_dict
from core.config.yaml_files import read_section
from core.diffusion.paths.config import PathRecord
from core.diffusion.predictions import Prediction
from core.distributed.sequence import SequenceGroup
from core.errors import WorkError, below
from core.files import sha256_file
from core.run.folder import AUTOENCODER, CHECKPOINTS, CONFIG, EXPORT
from data.latent.normalising import Moment, Normaliser
from models.autoencoder.interface import AnyAutoencoder
from models.autoencoder.opening import identify, open_autoencoder
from models.denoisers.kinds import config_class
from models.denoisers.network import Denoiser, DenoiserConfig
from models.weights import fingerprint
from tools.runs.path_record import SCHEDULE
from tools.runs.space_record import ADDED_LATER, LEARNT, read_space, space_file


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """The latent space of a run, from its `latents.json` (written by `tools.runs.latent_space`).

    mean, std: per channel.  encoder: fingerprint of the autoencoder.  classes: names by label.  text: what
    captions were embedded by, which lay in text_folder; None and "" for a run without text.
    shapes: (C, T, H, W) that the run was trained on, the most frequent one first.
    null_share: of samples trained without label, and without text; None where that is not known.
    dropout: share from which training took label and text together ("both"), and of the others each of them
    alone; None where that is not known.
    untrained_classes: names of classes that had no sample.  fps: frames a second of most clips; None where
    that is not known.
    """

    mean: Moment
    std: Moment
    encoder: str
    text: dict[str, Any] | None
    text_folder: str
    classes: tuple[str, ...]
    shapes: tuple[tuple[int, int, int, int], ...]
    path: PathRecord
    prediction: Prediction
    learned_sigma: bool
    null_share: Mapping[str, float | None] | None
    dropout: Mapping[str, float] | None
    untrained_classes: tuple[str, ...]
    fps: float | None

    @property
    def normaliser(self) -> Normaliser:
        return Normaliser(self.mean, self.std)

    def share_without(self, dropped: Collection[str]) -> float | None:
        """Return the share of samples trained without these of label and text, and with the others.

        None where it is not known. What samples do not have by themselves counts as independent.
        """
        both = None if self.dropout is None else self.dropout["both"]
        if both is None or self.null_share is None:
            return None
        if both == 1:
            return float(len(dropped) == 2)
        share = 1.0 - both
        for part in ("label", "text"):
            null = self.null_share.get(part)
            if null is None:
                return None
            alone = max(0.0, (null - both) / (1 - both))
            share *= alone if part in dropped else 1 - alone
        return share + both * (len(dropped) == 2)

    @classmethod
    def read(cls, run: Path) -> Self:
        """Read the latent space of a run folder; UserError if there is none, WorkError if it is damaged."""
        space_file(run)
        record = ADDED_LATER | LEARNT | read_space(run)
        normaliser = Normaliser.from_dict(record)
        record |= {"mean": normaliser.mean, "std": normaliser.std, "classes": tuple(record["classes"])}
        record["untrained_classes"] = tuple(record["untrained_classes"])
        record["path"] = PathRecord.of(record["path"], record.get(SCHEDULE))
        record["shapes"] = tuple((c, t, h, w) for c, t, h, w in record["shapes"])
        return cls(**{field.name: record[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class LoadedRun:
    """The parts of a run that sampling needs.

    The networks are on one device, in evaluation mode.

    checkpoint: the name of the one that the weights are of.  weights: which ones of it.
    manifest_sha256: of the file that lists the hashes of its files.
    """

    model: Denoiser
    network: DenoiserConfig
    space: LatentSpace
    autoencoder: AnyAutoencoder
    checkpoint: str
    weights: str
    weights_sha256: str
    manifest_sha256: str


def place_of(source: Path, checkpoint: str) -> Path:
    """Return the folder that holds weights: of an export itself, of a run its checkpoint of that name."""
    return source if exported.is_export(source) else source / CHECKPOINTS / checkpoint


def manifest_hash(folder: Path) -> str:
    """Return the SHA-256 of the file in which a checkpoint or export lists the hashes of its files.

    "" without one.
    """
    path = folder / (EXPORT if exported.is_export(folder) else format.MANIFEST)
    return sha256_file(path) if path.is_file() else ""


def recorded_network(folder: Path) -> DenoiserConfig:
    """Return the network of a run or an export, as its config says; UserError for one not known here."""
    recorded = read_section(folder / CONFIG, "model")
    with below("model"):
        return from_dict(config_class(recorded), recorded)


def open_run(
    folder: Path,
    checkpoint: str,
    weights: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    sequence: SequenceGroup | None = None,
) -> LoadedRun:
    """Load a run folder or an export; UserError if it is none, WorkError if it is damaged.

    checkpoint: the name of one of the run's checkpoints, '' for the newest.  weights: as `load_weights` takes
    them; an export has one set, and "ema" is whichever that is.  dtype: of the network; the autoencoder is in
    float32.
    sequence: the ranks that compute the network together, if not this one alone.
    """
    space = LatentSpace.read(folder)
    decoder = open_autoencoder(folder / AUTOENCODER)
    if (found := identify(decoder)["encoder"]) != space.encoder:
        raise WorkError(
            f"{folder / AUTOENCODER} has encoder={found}, and the run was trained with {space.encoder}"
        )
    chosen = choose(folder, checkpoint)
    name = chosen.name
    if exported.is_export(chosen):
        require_held(chosen, weights)
        record = exported.read_record(chosen)
        name, weights = record["checkpoint"], record["weights"]
    manifest = manifest_hash(chosen)  # first: weights replaced after this do not fit it any more
    state = load_weights(chosen, weights)
    network = recorded_network(folder)
    model = network.build(sequence)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise WorkError(f"{chosen} does not fit {folder / CONFIG}: {reason}") from None
    found = fingerprint(state)
    return LoadedRun(
        model.to(device, dtype).eval(), network, space, decoder.to(device), name, weights, found, manifest
    )
