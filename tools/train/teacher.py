"""The trained network that a run distils: the one that it begins from, as it was there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from core.diffusion.objectives.config import ObjectiveConfig
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.errors import UserError
from data.loading.sources.kinds import LatentFacts
from models.denoisers.network import DenoiserConfig
from models.weights import fingerprint
from tools.runs.begun import StartingPoint
from tools.runs.initial import find_initial, read_record
from tools.runs.normalisers import LatentsConfig
from tools.train.beginning import find_beginning


def make_teacher(
    initial: str,
    facts: LatentFacts,
    model: DenoiserConfig,
    objective: ObjectiveConfig,
    latents: LatentsConfig,
    engine: EngineConfig,
    world: World,
    run: Path,
) -> nn.Module:
    """Return the network that `initial` names, fixed, on the device and in the precision of training.

    Every rank reads it, whole, also when the run goes on from a checkpoint of its own.
    UserError where it is not the one that the run was begun with, any more.
    """
    found = find_initial(initial, "train", run)
    beginning = find_beginning(StartingPoint(found, []), facts, model, objective, latents, ())
    assert beginning is not None
    state, record = found.load(), read_record(run)
    beginning.transfer.require_state(state, str(found.chosen))
    if record is not None and (now := fingerprint(state)) != record["sha256"]:
        expected = f"the weights {record['sha256'][:12]}, with which {run} was begun; these are {now[:12]}"
        raise UserError("initial", initial, expected)
    teacher = model.build()
    beginning.transfer.apply(teacher, state)
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    return teacher.requires_grad_(False).eval().to(world.device, dtype)
