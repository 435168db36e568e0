"""The commands of docs/evaluation.md, typed with small stand-ins for what they name. Run: pytest FILE"""

from __future__ import annotations

import json
import shlex
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from core.root import ROOT
from launch import cli
from models.autoencoder import kl, store
from models.extractors import inception
from tests.models.extractors.made_weights import random_weights
from tests.tools.convert.test_dit_layout import LARGE, REFERENCE, weights
from tools.evaluate.extractors.inception_scores import SPATIAL_WIDTH

COUNT, SMALLER = 14, {"count=50000": "count=14", "sampler.steps=250": "sampler.steps=4", "processes=8": ""}
OF_OURS = ("latent_std=5.5", "heads=2")  # which published files say by themselves


def commands(heading: str) -> list[list[str]]:
    """Return the words of each command in the first block under a heading."""
    text = (ROOT / "docs/evaluation.md").read_text().partition(f"## {heading}")[2]
    lines = text.split("```")[1].replace("\\\n", " ").strip().splitlines()
    return [[SMALLER.get(word, word) for word in shlex.split(line)] for line in lines]


def make_files(folder: Path) -> None:
    with np.load(REFERENCE) as file:
        torch.save(weights(LARGE, file["eight_positions"]), folder / "DiT-XL-2-256x256.pt")
    small = kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
    store.save(kl.Autoencoder(small), folder / "sd-vae-ft-ema")
    (folder / "imagenet.txt").write_text("".join(f"class {n}\n" for n in range(5)))
    torch.save(random_weights(), folder / "pt_inception-2015-12-05-6726825d.pth")
    pictures = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    sizes = {"": inception.WIDTH, "_s": SPATIAL_WIDTH}
    statistics = {f"mu{end}": np.zeros(size) for end, size in sizes.items()}
    statistics |= {f"sigma{end}": np.eye(size) for end, size in sizes.items()}
    np.savez(folder / "VIRTUAL_imagenet256_labeled.npz", arr_0=pictures, **statistics)


@pytest.mark.full
def test_fid_of_published_weights_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    convert, sample, evaluator, evaluate, compare = commands("FID-50K of DiT-XL/2")
    assert cli.main([*convert[1:], *OF_OURS]) == 0
    assert cli.main([word for word in sample[1:] if word]) == 0
    arrays = Path(evaluator[-1])
    with zipfile.ZipFile(arrays) as archive:
        assert {"arr_0.npy", "arr_1.npy"} <= set(archive.namelist())
        assert archive.getinfo("arr_0.npy").compress_type == zipfile.ZIP_STORED
    with np.load(arrays) as file:
        assert (file["arr_0"].dtype, file["arr_0"].shape) == (np.uint8, (COUNT, 64, 64, 3))
        assert file["arr_1"].shape == (COUNT,)
    assert cli.main([word for word in evaluate[1:] if word]) == 0
    scores = json.loads(Path("runs/fid-scores/scores.json").read_text())
    assert scores.keys() >= {
        "fid",
        "sfid",
        "inception_score",
        "kid",
        "precision",
        "recall",
        "reference_count",
    }
    assert scores["subject"]["sampler"]["guidance_channels"] == 3
    assert scores["subject"]["precision"] == "fp32"
    shutil.copytree("runs/fid-scores", "runs/other-scores")
    assert cli.main(compare[1:]) == 0
