"""Weights in the layout of the published DiT: the same network here, and back.

`dit_reference.npz` holds what the published code computes with the weights that `weights` makes, from the
inputs that `inputs` makes: outputs in [0, 1]'s neighbourhood of size, and the positions that it stores.
"""

from __future__ import annotations

import argparse
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.checkpoint import exported
from core.config.fields import to_dict
from core.errors import UserError
from models.autoencoder import kl, store
from models.denoisers.dit import DiT, DiTConfig
from tools.convert import job
from tools.convert.config import Config
from tools.convert.layouts import dit
from tools.runs.loaded_run import open_run

REFERENCE = Path(__file__).with_name("dit_reference.npz")
LARGE = DiTConfig(width=32, depth=2, heads=2, num_classes=5, learned_sigma=True)
SMALL = DiTConfig(width=24, depth=1, heads=3, num_classes=3, patch=(1, 4, 4))
CASES = {"eight": LARGE, "plain": SMALL}


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE) as file:
        return {name: file[name] for name in file.files}


def weights(config: DiTConfig, positions: np.ndarray) -> dict[str, Tensor]:
    """Make weights by formula, in the published layout: sines whose frequency is the name's place."""
    shapes = {theirs: DiT(config).state_dict()[ours].shape for ours, theirs in dit.names(config.depth)}
    patch = config.patch[1]
    shapes[dit.PATCH] = torch.Size((config.width, config.input_channels, patch, patch))
    found = {dit.POSITIONS: torch.from_numpy(positions)}
    for number, name in enumerate(sorted([*shapes, dit.POSITIONS])):
        if name != dit.POSITIONS:
            places = torch.arange(math.prod(shapes[name]), dtype=torch.float64)
            found[name] = (
                (0.08 * torch.sin(places * (1 + 0.1 * number) + number)).reshape(shapes[name]).float()
            )
    return found


def inputs(config: DiTConfig) -> tuple[Tensor, Tensor, Condition]:
    x = np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32)
    labels = torch.tensor([1, -1, 0])
    return torch.from_numpy(x)[:, :, None], torch.tensor([0.0, 417.0, 999.0]), Condition(label=labels)


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder")
    store.save(kl.Autoencoder(kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)), folder)
    return folder


def convert(source: Path, autoencoder: Path, output: Path, **fields: Any) -> Path:
    given: dict[str, Any] = {"latent_std": 5.5, "heads": 2, **fields}
    job.run(Config(source=str(source), output=str(output), autoencoder=str(autoencoder), **given))
    return output


@pytest.mark.parametrize("case", CASES)
def test_a_converted_network_computes_what_the_published_code_does(
    case: str, reference: dict[str, np.ndarray], autoencoder: Path, tmp_path: Path
) -> None:
    config, file = CASES[case], tmp_path / "weights.pt"
    theirs = weights(config, reference[f"{case}_positions"])
    torch.save({"model": {}, "ema": theirs, "opt": {"step": 3}, "args": argparse.Namespace(model="x")}, file)
    output = convert(file, autoencoder, tmp_path / "export", heads=config.heads)
    opened = open_run(output, "", "ema", torch.device("cpu"))
    assert to_dict(opened.network) == to_dict(config)
    with torch.inference_mode():
        found = opened.model(*inputs(config))[:, :, 0].numpy()
    assert np.abs(found - reference[case]).max() < 1e-5
    assert (opened.checkpoint, opened.weights) == ("weights.pt", "ema")
    assert opened.space.shapes == ((4, 1, 8, 8),)
    assert opened.space.null_share == {"label": 0.1, "text": None}
    job.run(Config(source=str(output), output=str(tmp_path / "back.pt")))
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs if name != dit.POSITIONS)
    assert torch.allclose(back[dit.POSITIONS], theirs[dit.POSITIONS], atol=1e-6)


def test_another_set_of_weights_than_the_one_asked_for_is_not_taken(
    reference: dict[str, np.ndarray], autoencoder: Path, tmp_path: Path
) -> None:
    file, theirs = tmp_path / "weights.pt", weights(LARGE, reference["eight_positions"])
    for held, asked in (("model", "raw"), ("ema", "ema")):
        torch.save({held: theirs, "opt": {"step": 3}}, file)
        other = {"raw": "ema", "ema": "raw"}[asked]
        with pytest.raises(UserError, match=rf"this one has {held}, for weights={asked}$"):
            convert(file, autoencoder, tmp_path / "other", weights=other)
        output = convert(file, autoencoder, tmp_path / held, weights=asked)
        assert exported.read_record(output)["weights"] == asked
        if asked == "ema":
            with pytest.raises(UserError, match="weights=raw: expected ema, for the ema that"):
                job.run(Config(source=str(output), output=str(tmp_path / "back.pt"), weights="raw"))


def test_classes_are_named_by_a_file(
    reference: dict[str, np.ndarray], autoencoder: Path, tmp_path: Path
) -> None:
    file, names = tmp_path / "weights.pt", tmp_path / "names.txt"
    torch.save(weights(LARGE, reference["eight_positions"]), file)
    names.write_text("tench\ngoldfish\nshark\nray\nhen\n")
    output = convert(file, autoencoder, tmp_path / "export", classes=str(names))
    assert open_run(output, "", "ema", torch.device("cpu")).space.classes[1] == "goldfish"
    names.write_text("tench\ngoldfish\n")
    with pytest.raises(UserError, match="5 lines, each with another name; it has 2 such"):
        convert(file, autoencoder, tmp_path / "other", classes=str(names))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("final_layer.linear.bias"),
            "without 1 weight: expected a DiT, with final_layer.linear",
        ),
        (lambda w: w.update(extra=torch.zeros(1)), "with 1 weight more: expected a DiT, which has no extra"),
        (
            lambda w: w.update(pos_embed=w["pos_embed"] + 1),
            "sin-cos positions of a square grid; these are oth",
        ),
        (lambda w: w.pop("x_embedder.proj.weight"), "weights of a DiT, whose patch embedding has that name"),
    ],
)
def test_other_weights_are_refused_by_name(
    change: Any, message: str, reference: dict[str, np.ndarray], autoencoder: Path, tmp_path: Path
) -> None:
    theirs = weights(LARGE, reference["eight_positions"])
    change(theirs)
    torch.save(theirs, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "weights.pt", autoencoder, tmp_path / "export")


def test_what_cannot_be_known_is_asked_for(
    reference: dict[str, np.ndarray], autoencoder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pt"
    torch.save(weights(LARGE, reference["eight_positions"]), file)
    with pytest.raises(UserError, match="2 blocks of width 32 are no published size"):
        convert(file, autoencoder, tmp_path / "export", heads=0)
    with pytest.raises(UserError, match="this autoencoder has no normalisation of its own"):
        convert(file, autoencoder, tmp_path / "export", latent_std=0.0)
    with pytest.raises(UserError, match="the folder of the autoencoder whose latents the network knows"):
        job.run(Config(source=str(file), output=str(tmp_path / "export")))


class Evil:
    def __reduce__(self) -> Any:
        return print, ("never",)


def test_code_in_a_file_is_not_run(
    autoencoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"ema": {}, "args": Evil()}, tmp_path / "weights.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("weights.pt", "plain.pt"):
        with pytest.raises(UserError, match="expected a file of weights"):
            convert(tmp_path / name, autoencoder, tmp_path / "export")
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positions": "rotary"}, "model.positions=rotary: expected sincos in this layout"),
        ({"qk_norm": True}, "model.qk_norm=True: expected False"),
        ({"patch": (2, 2, 2)}, "model.patch"),
        ({"text_width": 8}, "model.text_width=8: expected 0"),
    ],
)
def test_a_network_without_such_a_form_is_refused(changed: dict[str, Any], message: str) -> None:
    config = DiTConfig(**{**to_dict(LARGE), "patch": (1, 2, 2), **changed})
    with pytest.raises(UserError, match=message):
        dit.write(DiT(config).state_dict(), config, (4, 1, 8, 8))


def test_an_export_of_a_converted_network_is_whole(
    reference: dict[str, np.ndarray], autoencoder: Path, tmp_path: Path
) -> None:
    torch.save(weights(LARGE, reference["eight_positions"]), tmp_path / "weights.pt")
    output = convert(tmp_path / "weights.pt", autoencoder, tmp_path / "export")
    record = exported.read_record(output)
    assert record["step"] == 0
    assert {"config.yaml", "latents.json", "model.safetensors"} <= record["files"].keys()
    assert sorted(record["trained"]) == sorted(DiT(LARGE).state_dict())
