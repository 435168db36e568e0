"""`evaluate measure=reconstruction`: the numbers of known copies, SSIM by a twin, records, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from core.errors import UserError
from models.autoencoder import kl, store
from models.extractors import lpips
from tests.models.extractors.made_weights import save_lpips
from tools.evaluate import job as evaluate
from tools.evaluate import reconstruction_units as reconstruction
from tools.evaluate.config import ReconstructionConfig
from tools.evaluate.ssim import ssim
from tools.shard import job as shard

SIZE = (48, 40)


def smooth(seed: int, count: int = 4) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (count, *SIZE, 3))
    return np.stack([gaussian_filter(each, (2, 2, 0)) for each in noise]).round().astype(np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "files").mkdir()
    for number, picture in enumerate(smooth(0)):
        Image.fromarray(picture).save(folder / f"files/{number}.png")
    shard.run(shard.Config(source=str(folder / "files"), output=str(folder / "raw")))
    small = kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
    store.save(kl.Autoencoder(small), folder / "autoencoder")
    return folder


def scores(made: Path, name: str, **fields: Any) -> dict[str, Any]:
    fields = {"reconstruction": ReconstructionConfig(size=SIZE), "real": str(made / "raw"), **fields}
    source, output = str(made / "autoencoder"), made / name
    config = evaluate.Config(
        source=source, output=str(output), measure="reconstruction", device="cpu", batch=3, **fields
    )
    evaluate.plan(config)
    evaluate.run(config)
    found: dict[str, Any] = json.loads((output / "scores.json").read_text())
    return found


def test_ssim_is_that_of_a_twin_written_with_scipy() -> None:
    a, b = smooth(1), smooth(2)

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]  # 11 wide, only windows within

    expected = []
    for one, other in zip(a.astype(float), b.astype(float), strict=True):
        values = []
        for c in range(3):
            x, y = one[..., c], other[..., c]
            mx, my = blur(x), blur(y)
            vx, vy, both = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
            c1, c2 = 2.55**2, 7.65**2
            top = (2 * mx * my + c1) * (2 * both + c2)
            values.append((top / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
        expected.append(np.mean(values))
    found = ssim(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert np.allclose(found, expected, atol=1e-9)
    assert torch.allclose(ssim(torch.from_numpy(a), torch.from_numpy(a)), torch.ones(4, dtype=torch.float64))


def test_known_copies_have_their_error(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that are darker by 10 everywhere have a PSNR of 20 log10(25.5)."""
    original = reconstruction.from_tensor
    monkeypatch.setattr(kl.Autoencoder, "encode", lambda self, x: x[:, None])
    monkeypatch.setattr(kl.Autoencoder, "decode", lambda self, x: x)
    monkeypatch.setattr(
        reconstruction, "from_tensor", lambda x: np.maximum(original(x).astype(int) - 10, 0).astype(np.uint8)
    )
    trunk, weights = save_lpips(made, "alex")
    config = ReconstructionConfig(size=SIZE, lpips_network=str(trunk), lpips_weights=str(weights))
    found = scores(made, "known", reconstruction=config)
    assert found["images"] == 4
    assert found["psnr_db"] == pytest.approx(20 * np.log10(25.5), abs=1e-6)
    pictures = torch.from_numpy(smooth(0))
    assert found["ssim"] == pytest.approx(float(ssim(pictures, pictures - 10).mean()), abs=1e-9)
    x, y = (p.permute(0, 3, 1, 2) / 127.5 - 1 for p in (pictures, pictures - 10))
    expected = float(lpips.load(trunk, weights)(x, y).mean())
    assert found["lpips"] == pytest.approx(expected, rel=1e-4)
    ruler = found["ruler"]
    assert (ruler["measure"], ruler["size"]) == ("reconstruction", list(SIZE))
    assert len(ruler["lpips_network_sha256"]) == len(found["subject"]["autoencoder"]) == 64
    assert Image.open(made / "known/reconstructions.png").width > 4 * SIZE[1]


def test_an_untrained_autoencoder_scores_low(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = scores(made, "untrained")
    assert found["psnr_db"] < 25
    assert set(found) & {"lpips", "rfid"} == set()
    assert "ssim" in capsys.readouterr().out


def test_scores_by_other_weights_are_not_taken_for_finished(made: Path, tmp_path: Path) -> None:
    def config(folder: str) -> ReconstructionConfig:
        (tmp_path / folder).mkdir(exist_ok=True)
        trunk, weights = save_lpips(tmp_path / folder, "alex")
        return ReconstructionConfig(size=SIZE, lpips_network=str(trunk), lpips_weights=str(weights))

    first = scores(made, "moved", reconstruction=config("a"))
    assert scores(made, "moved", reconstruction=config("b")) == first  # the same files elsewhere
    other = config("c")
    torch.save(
        {f"lin{i}.model.1.weight": torch.ones(1, n, 1, 1) for i, n in enumerate((64, 192, 384, 256, 256))},
        other.lpips_weights,
    )
    with pytest.raises(UserError, match=r"reconstruction.lpips_weights"):
        scores(made, "moved", reconstruction=other)


def test_what_does_not_fit_is_refused(made: Path) -> None:
    with pytest.raises(UserError, match=r"lpips_weights='': expected a file: LPIPS needs both"):
        ReconstructionConfig(lpips_network="a")
    with pytest.raises(UserError, match=r"heldout=h: expected '' with measure=reconstruction"):
        evaluate.Config(source="a", real="r", output="o", measure="reconstruction", heldout="h")
    with pytest.raises(UserError, match=r"reconstruction.size=.*: expected at least 11 pixels"):
        scores(made, "small", reconstruction=ReconstructionConfig(size=(8, 8)))
    with pytest.raises(UserError, match=r"reconstruction.size=50: expected a multiple of"):
        scores(made, "odd", reconstruction=ReconstructionConfig(size=(50, 48)))
    assert not (made / "odd").exists()
    with pytest.raises(UserError, match=r"source=.*nothing: expected a folder with config.json"):
        evaluate.run(
            evaluate.Config(
                source=str(made / "nothing"),
                real=str(made / "raw"),
                output=str(made / "none"),
                measure="reconstruction",
            )
        )
    config = ReconstructionConfig(size=SIZE, lpips_network="nowhere", lpips_weights="nowhere")
    with pytest.raises(UserError, match=r"reconstruction.lpips_network=nowhere"):
        scores(made, "nowhere", reconstruction=config)
