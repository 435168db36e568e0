"""Captions through a public autoencoder and text encoder, training and sampling from prompts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from core.config.loading import load
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.sampling import SamplerConfig
from core.distributed.ranks import World
from core.draws import Draws
from core.errors import UserError, WorkError
from core.files import sealed, write_json, write_text
from core.records import read_rows
from data.dataset.index import Dataset
from data.latent.reading import reader_of
from data.latent.text_reading import TextReader
from data.order.buckets import BucketConfig
from models.autoencoder.tiling_config import TilingConfig
from models.denoisers.dit import DiT, DiTConfig
from tests.data.samples import clip_bytes, image_bytes, picture
from tests.integration.tiny_run import STEP, finish
from tests.models.public_models import save_autoencoder, save_text_encoder
from tests.tools.train.opened import load_data, open_checked, prepare_objective
from tools.encode import job as encode
from tools.preview import real_latents, sampled_look
from tools.runs import loaded_run
from tools.runs.latent_space import keep_latent_space
from tools.runs.normalisers import LatentsConfig, choose_normaliser, encoders_own
from tools.sample import job as sample
from tools.sample.generating import make_latents
from tools.shard import job as shard
from tools.train import job as train
from tools.train.config import Config
from tools.train.objective import LatentObjective

MODEL = {"input_channels": 4, "width": 16, "depth": 1, "heads": 2, "num_classes": 0, "text_width": 8}
FIELDS = tuple(f"model.{name}={value}" for name, value in MODEL.items())
WORLD = World(0, 1, 0, torch.device("cpu"))
STEPS = SamplerConfig(steps=2, guidance=2.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make captioned pictures and clips, encoded by a tiny Wan autoencoder and a tiny T5."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "files").mkdir()
    for number in range(8):
        data = image_bytes(picture(16, 16, seed=number))
        (folder / "files" / f"{number}.png").write_bytes(data)
        (folder / "files" / f"{number}.txt").write_text(["a red disc", "a square on black"][number % 2])
    for number in range(8, 16):
        (folder / "files" / f"{number}.mp4").write_bytes(clip_bytes(folder, frames=5, fps=8.0))
        (folder / "files" / f"{number}.txt").write_text("a disc moves left")
    shard.run(shard.Config(source=str(folder / "files"), output=str(folder / "raw")))
    save_autoencoder(folder / "wan", "AutoencoderKLWan")
    save_text_encoder(folder / "t5", "T5EncoderModel")
    encode.run(
        encode.Config(
            source=str(folder / "raw"),
            autoencoder=folder / "wan",
            text_encoder=str(folder / "t5"),
            output=folder / "cache",
            buckets=BucketConfig(shapes=((1, 16, 16), (5, 16, 16))),
        )
    )
    return folder


def config(made: Path, *fields: str) -> Config:
    common = (f"source={made / 'cache'}", f"output={made / 'run'}", *FIELDS, *STEP, "model.patch=[1,1,1]")
    return load(Config, overrides=[*common, *fields])


def make_run(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **latents: Any) -> Path:
    """Make a run folder as training leaves it, with random weights that are found without a checkpoint."""
    source, autoencoder = open_checked(config(made))
    chosen = LatentsConfig(**latents)
    normaliser = choose_normaliser(source, chosen, folder, WORLD)
    keep_latent_space(folder, source, autoencoder, ObjectiveConfig(), normaliser, chosen, text=True)
    write_text(folder / "config.yaml", "model: " + json.dumps(MODEL | {"patch": [1, 1, 1]}) + "\n")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        names = DiT(DiTConfig(**MODEL, patch=(1, 1, 1))).state_dict()
        state = {name: 0.3 * torch.randn(tensor.shape) for name, tensor in names.items()}
    write_json(folder / "checkpoints" / "step-00000001.0" / "manifest.json", {"number": 1})
    monkeypatch.setattr(loaded_run, "load_weights", lambda path, which: state)
    return folder


def draw(run: Path, name: str, **fields: Any) -> np.ndarray:
    more = {"count": 4, "batch": 3, "sampler": STEPS, "prompts": ("a red disc", "a square"), **fields}
    sample.run(sample.Config(source=str(run), output=str(run.parent / name), **more))
    with np.load(run.parent / name / "samples.npz") as arrays:
        return arrays["arr_0"]


def test_batches_of_a_network_with_text_carry_it(made: Path) -> None:
    wanted = config(made)
    source, _ = open_checked(wanted)
    (_, loader), _ = load_data(wanted, source, WORLD)
    for batch in loader.load(0):
        assert batch.condition.text is not None
        assert batch.condition.text.shape[1:] == (5, 8)
    silent = config(made, "model.text_width=0")
    (_, loader), _ = load_data(silent, source, WORLD)
    assert loader.load(0)[0].condition.text is None


def test_text_of_another_width_is_refused(made: Path) -> None:
    with pytest.raises(
        UserError, match=r"model.text_width=12: expected 0 for .* or 8, the width of its text"
    ):
        open_checked(config(made, "model.text_width=12"))


def test_latents_are_normalised_as_the_authors_do_where_asked(made: Path) -> None:
    source, _ = open_checked(config(made, "latents.normalise=encoder"))
    own = choose_normaliser(source, LatentsConfig(normalise="encoder"), made, WORLD)
    assert own.mean == (0.1, 0.2, 0.3, 0.4)
    assert own.std == (1.0, 2.0, 3.0, 4.0)
    measured = choose_normaliser(source, LatentsConfig(), made, WORLD)
    assert measured.mean == tuple(source.statistics(None, WORLD)["mean"])
    frames = {"mean": [[0.0], [1.0], [2.0], [3.0]], "std": [[1.0], [1.0], [1.0], [1.0]]}
    for record, expected in (
        (None, r"expected measured, since the autoencoder of .* has no normalisation of its own"),
        (frames, r"the autoencoder's own is for 1 latent frames, not 2"),
    ):
        made_from = {**source.facts.made_from, "normalisation": record}
        with pytest.raises(UserError, match=expected):
            encoders_own(replace(source.facts, made_from=made_from))


@pytest.mark.parametrize("normalise", ["measured", "encoder"])
def test_samples_follow_their_prompts(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalise: str
) -> None:
    run = make_run(made, tmp_path / "run", monkeypatch, normalise=normalise)
    kept = json.loads((run / "latents.json").read_text())
    assert kept["normalise"] == normalise
    first = draw(run, "first")
    assert first.shape == (4, 16, 16, 3)
    (tmp_path / "prompts.txt").write_text("a red disc\n\na square\n")
    assert np.array_equal(draw(run, "file", prompts=(), prompt_file=str(tmp_path / "prompts.txt")), first)
    other = draw(run, "other", prompts=("a red disc", "blue moves right"))
    assert np.abs(other[::2].astype(int) - first[::2]).max() <= 1
    assert (other[1::2] != first[1::2]).mean() > 0.01
    record = json.loads((tmp_path / "first" / "samples.json").read_text())
    assert record["prompts"] == ["a red disc", "a square"]
    assert record["text_encoder"] == kept["text"]
    assert (tmp_path / "first" / "images.png").exists()
    (tmp_path / "prompts.txt").write_text("a red disc\na circle\n")
    for folder, again in (("file", r"prompts\[1\]='a square'; now it is 'a circle'"), ("half", "prompts")):
        if folder == "half":
            half = tmp_path / folder
            shutil.copytree(tmp_path / "file", half)
            (half / "samples.json").unlink()
        with pytest.raises(UserError, match=rf"{folder} was begun with {again}"):
            draw(run, folder, prompts=(), prompt_file=str(tmp_path / "prompts.txt"))


def test_clips_are_decoded_by_the_autoencoder_of_the_run_in_tiles_too(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(made, tmp_path / "run", monkeypatch)
    assert sorted(path.name for path in (run / "autoencoder").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    whole = draw(run, "whole", frames=5, height=32, width=16, count=1)
    assert whole.shape == (1, 5, 32, 16, 3)
    with pytest.raises(UserError, match=r"frames=8: expected 5 or 9"):
        draw(run, "lost", frames=8, height=32, width=16)
    with pytest.raises(UserError, match=r"tiling.frames=4: expected 0"):
        draw(run, "parts", tiling=TilingConfig(frames=4))
    save_autoencoder(run / "autoencoder", "AutoencoderKLWan", seed=1)
    with pytest.raises(WorkError, match="the run was trained with"):
        draw(run, "swapped")


def test_only_the_text_encoder_of_the_run_will_do(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(made, tmp_path / "run", monkeypatch)
    other = save_text_encoder(tmp_path / "other", "T5EncoderModel", seed=1)
    with pytest.raises(UserError, match=r"expected the one of the run, with encoder="):
        draw(run, "out", text_encoder=str(other))
    moved = save_text_encoder(tmp_path / "elsewhere", "T5EncoderModel")
    draw(run, "moved", text_encoder=str(moved), count=1)
    textless = json.loads((run / "latents.json").read_text()) | {"text": None}
    write_json(run / "latents.json", sealed(textless))
    with pytest.raises(
        UserError, match="prompts=a red disc: expected none, since the run was trained without"
    ):
        draw(run, "silent")
    for fields, expected in (
        ({"prompt_file": "x.txt"}, "since prompts are given too"),
        ({"prompts": (), "prompt_file": str(tmp_path / "none.txt")}, "a UTF-8 text file"),
    ):
        with pytest.raises(UserError, match=expected):
            draw(run, "bad", **fields)


def test_the_loss_depends_on_the_text_of_each_sample(made: Path) -> None:
    wanted = config(made, "objective.label_dropout=0", "latents.normalise=encoder")
    source, _ = open_checked(wanted)
    (_, loader), _ = load_data(wanted, source, WORLD)
    torch.manual_seed(0)
    model = DiT(wanted.model)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    normaliser = choose_normaliser(source, wanted.latents, made, WORLD)
    objective = LatentObjective(wanted.objective, normaliser, frame_condition=False)
    batch = loader.load(0)[0]
    draws = Draws(0, 0, batch.id, batch.position)
    first = objective.loss(model, batch, draws).loss
    text = batch.condition.text
    assert text is not None
    other = replace(batch, condition=replace(batch.condition, text=text.flip(-1)))
    assert ((objective.loss(model, other, draws).loss - first).abs() > 1e-5).all()


def test_captions_embedded_while_training_give_the_loss_of_those_in_the_cache(
    made: Path, tmp_path: Path
) -> None:
    cached = config(made, "objective.label_dropout=0.5")
    fields = {
        "source": made / "raw",
        "output": tmp_path / "run",
        "autoencoder": made / "wan",
        "data.encode": "online",
        "data.online.buckets.shapes": "[[1,16,16],[5,16,16]]",
        "data.online.text_encoder": made / "t5",
    }
    online = config(
        made, "objective.label_dropout=0.5", *(f"{name}={value}" for name, value in fields.items())
    )
    with pytest.raises(UserError, match=r"since it holds no text \(data.online.text_encoder\)"):
        open_checked(
            replace(online, data=replace(online.data, online=replace(online.data.online, text_encoder="")))
        )
    source, (raw, autoencoder) = open_checked(cached)[0], open_checked(online)
    prepare_objective(online, raw, autoencoder, WORLD)
    kept = json.loads((tmp_path / "run" / "latents.json").read_text())
    assert kept["text"] == source.facts.text_encoder
    assert kept["text_folder"] == str(made / "t5")
    loaders = [load_data(*pair, WORLD)[0].loader for pair in ((cached, source), (online, raw))]
    torch.manual_seed(0)
    model = DiT(cached.model)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    normaliser = choose_normaliser(source, cached.latents, made, WORLD)
    of_latents, of_pixels = (
        LatentObjective(cached.objective, normaliser, frame_condition=False, moments=each.moments)
        for each in (source, raw)
    )
    for step in range(3):
        for one, two in zip(*(loader.load(step) for loader in loaders), strict=True):
            assert torch.equal(one.id, two.id)
            assert one.condition.text_length is not None
            assert two.condition.text_length is not None
            assert torch.equal(one.condition.text_length, two.condition.text_length)
            draws = Draws(0, step, one.id, one.position)
            first, second = of_latents.loss(model, one, draws).loss, of_pixels.loss(model, two, draws).loss
            torch.testing.assert_close(first, second, rtol=5e-3, atol=0)


def test_a_cache_behind_a_url_trains_with_its_text(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "copies"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in (made / "cache").iterdir():
        memory.pipe(f"/bucket/cache/{path.name}", path.read_bytes())
    wanted = config(made, "source=memory://bucket/cache", f"output={tmp_path / 'run'}")
    source, autoencoder = open_checked(wanted)
    assert autoencoder == made / "wan"
    prepare_objective(wanted, source, autoencoder, WORLD)
    assert json.loads((tmp_path / "run" / "latents.json").read_text())["text_folder"] == str(made / "t5")
    here = config(made)
    pairs = (wanted, source), (here, open_checked(here)[0])
    loaders = [load_data(*pair, WORLD)[0].loader for pair in pairs]
    for one, two in zip(*(loader.load(0) for loader in loaders), strict=True):
        assert one.condition.text is not None
        assert two.condition.text is not None
        assert torch.equal(one.condition.text, two.condition.text)
        assert torch.equal(one.x, two.x)
    memory.rm("/bucket/cache/config.yaml")
    shutil.rmtree(tmp_path / "copies")
    with pytest.raises(UserError, match=r"autoencoder='': expected the folder of the autoencoder \w+, which"):
        open_checked(wanted)
    prepare_objective(wanted, *open_checked(replace(wanted, autoencoder=str(made / "wan"))), WORLD)


def test_samples_that_are_scored_in_training_have_the_captions_of_rows(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.preview.latent_features.SAMPLES_A_NUMBER", 1)
    sampled: list[Any] = []

    def sample_latents(maker: Any, shape: Any, samples: Any, schedule: Any, prompts: Any) -> Any:
        sampled.append(prompts.of(schedule.text[samples]))
        return make_latents(maker, shape, samples, schedule, prompts)

    monkeypatch.setattr(sampled_look, "make_latents", sample_latents)
    fields = ("trainer.steps=1", "evaluate.every=1", "evaluate.samples=8", "evaluate.sampler.steps=1")
    train.run(config(made, f"output={tmp_path / 'run'}", "engine.precision=fp32", *fields))
    (row,) = read_rows(tmp_path / "run" / "evaluations.jsonl")
    assert row["0.9999"]["samples"] == 8
    cache = Dataset(made / "cache")
    own, _ = real_latents.choose(cache, 8, 4096, 0)
    reader = reader_of(cache)
    texts = TextReader(cache.folder, cache.manifest, reader.parts)
    tokens, lengths = texts.gather(own, reader.entries(own)["shard"])
    assert torch.equal(torch.cat([text for text, _ in sampled]), tokens)
    assert torch.equal(torch.cat([length for _, length in sampled]), lengths)


@pytest.mark.full
@pytest.mark.multiprocess
def test_a_training_run_learns_from_captions(made: Path, tmp_path: Path) -> None:
    import sys

    words = [sys.executable, "-m", "launch", "train", str(made / "cache"), f"output={tmp_path / 'run'}"]
    words += [*FIELDS, *STEP, "model.patch=[1,1,1]", "latents.normalise=encoder", "trainer.steps=2"]
    status, output = finish(words)
    assert status == 0, output
    kept = json.loads((tmp_path / "run" / "latents.json").read_text())
    assert kept["text"] == Dataset(made / "cache").manifest.extra["made_from"]["text"]
    assert kept["text_folder"] == str(made / "t5")
    assert kept["std"] == [1.0, 2.0, 3.0, 4.0]
    fields = {"checkpoint": "", "weights": "raw", "count": 1, "batch": 1, "sampler": STEPS}
    sample.run(
        sample.Config(
            source=str(tmp_path / "run"), output=str(tmp_path / "out"), prompts=("a disc",), **fields
        )
    )
    assert (tmp_path / "out" / "samples.json").exists()
