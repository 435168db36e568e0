"""Folders of diffusers' DiTPipeline: the same network here, and back; what has no such form is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from core.batch import Condition
from core.config.fields import to_dict
from core.diffusion.paths.kinds import make_path
from core.errors import UserError
from models.denoisers.dit import DiT, DiTConfig
from tests.models.public_models import save_autoencoder
from tools.convert import job
from tools.convert.config import Config
from tools.convert.layouts import diffusers_dit
from tools.runs.loaded_run import open_run

NETWORK = DiTConfig(width=32, depth=2, heads=2, num_classes=1000, learned_sigma=True, time_frequency_shift=1)


def save_pipeline(folder: Path, **changed: Any) -> Path:
    """Write a DiTPipeline with random weights, as diffusers does; its blocks embed time and class alike."""
    import diffusers

    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": 1000,
        "norm_eps": 1e-6,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = diffusers.DiTTransformer2DModel(**settings | changed)
    shared = transformer.transformer_blocks[0].norm1.emb.state_dict()
    for block in transformer.transformer_blocks:
        block.norm1.emb.load_state_dict(shared)
    save_autoencoder(folder / "made", "AutoencoderKL", shift_factor=None)
    diffusers.DiTPipeline(
        transformer=transformer,
        vae=diffusers.AutoencoderKL.from_pretrained(folder / "made"),
        scheduler=diffusers.DDIMScheduler(clip_sample=False),
    ).save_pretrained(folder / "pipeline")
    index = folder / "pipeline/model_index.json"  # published ones name the classes in it
    names = {"id2label": {str(n): f"class {n}" for n in range(1000)}}
    index.write_text(json.dumps(json.loads(index.read_text()) | names))
    return folder / "pipeline"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def export(pipeline: Path) -> Path:
    output = pipeline.parent / "export"
    job.run(Config(source=str(pipeline), output=str(output)))
    return output


def test_a_pipelines_network_computes_here_what_it_does_there(pipeline: Path, export: Path) -> None:
    import diffusers

    theirs = diffusers.DiTTransformer2DModel.from_pretrained(pipeline / "transformer").eval()
    trained = open_run(export, "", "ema", torch.device("cpu"))
    assert trained.space.classes[3] == "class 3"
    assert trained.space.prediction == "noise"
    x = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(1))
    time, label = torch.tensor([0, 417, 999]), torch.tensor([3, 999, 1000])
    with torch.no_grad():
        expected = theirs(x, time, label).sample
        ours = trained.model(x[:, :, None], time.float(), Condition(label=torch.tensor([3, 999, -1])))
    assert (ours[:, :, 0] - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_pipeline_comes_back_as_it_was(pipeline: Path, export: Path, tmp_path: Path) -> None:
    import diffusers

    job.run(Config(source=str(export), output=str(tmp_path / "again"), layout="diffusers"))
    first, again = (diffusers.DiTPipeline.from_pretrained(place) for place in (pipeline, tmp_path / "again"))
    before, after = first.transformer.state_dict(), again.transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.vae.config.scaling_factor == pytest.approx(first.vae.config.scaling_factor)
    assert again.labels["class 7"] == 7
    pictures = []
    for made in (first, again):
        made.set_progress_bar_config(disable=True)
        seeded = torch.manual_seed(0)
        pictures.append(
            made([1, 5], generator=seeded, num_inference_steps=4, guidance_scale=2.0, output_type="np").images
        )
    assert abs(pictures[0] - pictures[1]).max() < 1e-5
    path = make_path(open_run(export, "", "ema", torch.device("cpu")).space.path)
    alphas = again.scheduler.alphas_cumprod.double().sqrt()[[0, 499, 999]]
    times = torch.tensor([0.001, 0.5, 1.0], dtype=torch.float64)
    assert torch.allclose(path.alpha(times), alphas, atol=1e-6)


def test_a_written_pipeline_is_replaced_only_when_asked(export: Path, tmp_path: Path) -> None:
    fields = {"source": str(export), "output": str(tmp_path / "out")}
    job.run(Config(**fields, layout="diffusers"))
    with pytest.raises(UserError, match="a new name; it exists; overwrite=true replaces it"):
        job.plan(Config(**fields, layout="diffusers"))
    job.run(Config(**fields, layout="diffusers", overwrite=True))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model_index.json", {"_class_name": "PixArtAlphaPipeline"}, "expected a DiTPipeline"),
        (
            "transformer/config.json",
            {"norm_type": "layer_norm"},
            "norm_type=layer_norm: expected norm_type",
        ),
        ("transformer/config.json", {"out_channels": 6}, "out_channels=6: expected out_channels=4 or twice"),
        ("transformer/config.json", {"num_layers": 1}, "expected a DiT, which has no such weight"),
        ("transformer/config.json", {"num_layers": 3}, r"without transformer_blocks\.2"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}, "expected 1000 steps"),
    ],
)
def test_pipelines_without_a_form_here_are_refused(
    pipeline: Path, tmp_path: Path, file: str, change: dict[str, Any], message: str
) -> None:
    shutil.copytree(pipeline, tmp_path / "other")
    path = tmp_path / "other" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        job.run(Config(source=str(tmp_path / "other"), output=str(tmp_path / "export")))
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"time_frequency_shift": 0}, "model.time_frequency_shift=0: expected 1 in this layout"),
        ({"num_classes": 10}, "model.num_classes=10: expected 1000"),
        ({"mlp_ratio": 2.0}, "model.mlp_ratio=2.0: expected 4.0"),
        ({"qk_norm": True}, "model.qk_norm=True: expected False"),
    ],
)
def test_networks_without_a_form_there_are_refused(changed: dict[str, Any], message: str) -> None:
    config = DiTConfig(**{**to_dict(NETWORK), "patch": (1, 2, 2), **changed})
    with pytest.raises(UserError, match=message):
        diffusers_dit.write(DiT(config).state_dict(), config, (4, 1, 8, 8))


def test_blocks_that_embed_differently_are_refused() -> None:
    tensors, _ = diffusers_dit.write(DiT(NETWORK).state_dict(), NETWORK, (4, 1, 8, 8))
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    with pytest.raises(UserError, match=r"with another transformer_blocks\.1\.norm1\.emb"):
        diffusers_dit.read({**tensors, name: tensors[name] + 1}, NETWORK, 8)
