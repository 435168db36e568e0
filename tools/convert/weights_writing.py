"""Write the weights of a run or an export by the names of another project."""

from __future__ import annotations

from pathlib import Path

from core.checkpoint import torch_file
from core.checkpoint.weights import choose, load_weights, require_held
from core.errors import UserError
from core.progress import say
from models.denoisers.dit import DiTConfig
from tools.convert.layouts.kinds import LAYOUTS
from tools.runs.loaded_run import recorded_network
from tools.runs.space_record import read_space


def write_weights(source: Path, output: Path, layout_name: str, weights: str, checkpoint: str) -> None:
    """Write the file of weights of a run or an export; the last three as the fields of `convert`."""
    layout = LAYOUTS[layout_name]
    network = recorded_network(source)
    if not isinstance(network, DiTConfig):
        raise UserError("source", source, f"a network of kind dit in layout {layout.name}")
    space = read_space(source)
    for field in ("path", "prediction"):
        if space[field] != layout.objective[field]:
            expected = f"a run with objective.{field}={layout.objective[field]} in layout {layout.name}"
            raise UserError("source", f"{source} with {space[field]}", expected)
    chosen = choose(source, checkpoint)
    require_held(chosen, weights)
    state = load_weights(chosen, weights)
    tensors = layout.write(state, network, tuple(space["shapes"][0]))
    torch_file.write_tensors(output, tensors)
    say(f"{output}: {len(tensors)} tensors of {chosen.name} in layout {layout.name}")
