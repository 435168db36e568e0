"""How a run brings latents to unit scale: the choice, and its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NotRequired

from core.config.settings import setting
from core.distributed import ranks
from core.distributed.ranks import World
from core.errors import UserError
from core.reading import json_files
from core.run.folder import LATENTS
from data.dataset.manifest_fields import Statistics
from data.latent.normalising import Normaliser
from data.loading.sources.kinds import LatentFacts, LatentSource
from tools.runs.space_record import ADDED_LATER


class _Kept(Statistics):
    normalise: NotRequired[str]


@dataclass(frozen=True, kw_only=True)
class LatentsConfig:
    """Settings of the latents as the network sees them."""

    normalise: Literal["measured", "encoder", "initial"] = setting(
        "measured",
        "measured: by the mean and standard deviation of the cache; encoder: as the authors of a public "
        "autoencoder do; initial, the default with initial=...: as in that run if it used the same "
        "autoencoder, else measured",
    )


def settle_normaliser(config: LatentsConfig, run: Path, initial: Normaliser | None) -> LatentsConfig:
    """Resolve `initial` in the settings (collective: all ranks).

    initial: the normaliser of the run whose weights this one begins from; None where it cannot be kept, and
    where the run continues, whose own record holds then.
    """
    if config.normalise != "initial":
        return config
    kept = ranks.on_first_rank(lambda: _kept(run, ("normalise",)))
    usual: Literal["measured", "initial"] = "initial" if initial is not None else "measured"
    return replace(config, normalise=kept["normalise"] if kept else usual)


def choose_normaliser(
    source: LatentSource, config: LatentsConfig, run: Path, world: World, initial: Normaliser | None = None
) -> Normaliser:
    """Choose how latents are brought to unit scale (collective: all ranks).

    config: as `settle_normaliser` gives it.  run: the run's folder, whose statistics are kept where they
    would have to be measured again.  initial: the normaliser of the run that this one begins from.
    UserError where they are the encoder's and it has none.
    """
    if config.normalise == "encoder":
        return encoders_own(source.facts)
    kept = ranks.on_first_rank(lambda: _kept(run, ("mean", "std")))
    if config.normalise == "initial":
        if kept is not None:
            return Normaliser.from_dict(kept)
        if initial is not None:
            return initial
    return Normaliser.from_dict(source.statistics(kept, world))


def encoders_own(facts: LatentFacts) -> Normaliser:
    """Return the normaliser of the autoencoder's authors.

    UserError if it has none, or none for such clips.
    """
    field, given = "latents.normalise", "encoder"
    own = facts.made_from.get("normalisation")
    if not own:
        expected = f"measured, since the autoencoder of {facts.place} has no normalisation of its own"
        raise UserError(field, given, expected)
    normaliser = Normaliser.from_dict(own)
    require_frames(normaliser, facts, given, "the autoencoder's own")
    return normaliser


def require_frames(normaliser: Normaliser, facts: LatentFacts, given: str, whose: str) -> None:
    """Raise UserError if a normaliser is for fewer latent frames than clips have."""
    longest = max(frames for _, frames, _, _ in facts.latent_shapes)
    if 0 < normaliser.frames < longest:
        expected = f"measured: {whose} is for {normaliser.frames} latent frames, not {longest}"
        raise UserError("latents.normalise", given, expected)


def _kept(run: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """Return what the run was begun with, by the names in its record; None before it has begun."""
    path = run / LATENTS
    if not path.exists():
        return None
    kept = ADDED_LATER | json_files.read_sealed(path, _Kept)
    return {name: kept[name] for name in names}
