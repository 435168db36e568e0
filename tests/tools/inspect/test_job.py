"""The job `inspect`: what it shows, finds and makes, for raw and latent datasets."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.files import sealed, write_json
from data.dataset.index import Dataset
from data.dataset.summary import summarise
from data.media.pictures import PAPER
from launch import cli
from tests.data.caches import CLIP, IMAGE, latents_of, make_cache
from tests.data.raw_datasets import damage, make_raw
from tests.data.samples import image_bytes, picture, tar_bytes
from tools.inspect.config import Config
from tools.inspect.dataset import DAMAGED, contact_sheet
from tools.inspect.job import plan, run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw")).folder


@pytest.fixture
def raw(made: Path, tmp_path: Path) -> Path:
    """Return a copy to damage."""
    return shutil.copytree(made, tmp_path / "raw")


@pytest.fixture
def latent(tmp_path: Path) -> Path:
    folder = make_cache(tmp_path / "latent", [[IMAGE, CLIP, IMAGE], [IMAGE] * 5], absent=(1,)).folder
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["extra"]["statistics"] = {"mean": [0.0] * 3, "std": [1.0] * 3, "count": 1}
    write_json(folder / "dataset.json", sealed(manifest))
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(["inspect", *words])
    return status, *capsys.readouterr()


def test_summary_of_a_raw_dataset(made: Path) -> None:
    (made / "quarantine.jsonl").write_text('{"id": "a/x.jpg", "stage": "decode", "error": "empty file"}\n')
    summary = summarise(Dataset(made))
    (made / "quarantine.jsonl").unlink()
    assert summary["totals"] == {
        "samples": 14,
        "bytes": sum(path.stat().st_size for path in made.glob("*.tar")),
        "shards": 4,
        "absent": 0,
    }
    assert summary["classes"] == [
        {"label": 0, "name": "a", "samples": 7},
        {"label": 1, "name": "b", "samples": 7},
    ]
    assert summary["buckets"] == [{"name": "image", "samples": 10}, {"name": "video", "samples": 4}]
    shapes = {entry["name"]: entry["samples"] for entry in summary["shapes"]}
    assert shapes == {"1x16x16": 5, "1x16x24": 5, "6x32x48": 2, "9x32x48": 2}
    assert summary["media"]["frames of a video"] == [6, 7.5, 9]
    assert summary["shard_samples"] == [2, 4, 4]
    assert (summary["quarantine"]["entries"], summary["quarantine"]["stages"]) == (1, {"decode": 1})


def test_a_histogram_of_many_shapes_ends(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.dataset.summary.MOST_SHAPES", 2)
    shapes = summarise(Dataset(made))["shapes"]
    assert [entry["samples"] for entry in shapes] == [5, 5, 4]
    assert shapes[-1]["name"] == "2 other shapes"


def test_summary_of_a_latent_cache(latent: Path) -> None:
    summary = summarise(Dataset(latent))
    assert (summary["totals"]["samples"], summary["totals"]["absent"]) == (8, 1)
    assert summary["shapes"] == [{"name": "2x3x1x4x4", "shape": list(IMAGE), "samples": 7}]
    assert summary["sample_bytes"] == [192, 192, 192]
    assert summary["extra"]["made_from"] == {"encoder": "a"}


def test_text_and_json_tell_the_same(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = told(capsys, str(made), f"json={tmp_path / 'x.json'}")
    assert status == 0
    assert "14 samples" in text
    assert "9x32x48" in text
    assert "quarantine: 0 samples set aside" in text
    status, printed, _ = told(capsys, str(made), "format=json")
    assert json.loads(printed) == json.loads((tmp_path / "x.json").read_text()) == summarise(Dataset(made))


def test_latent_text_names_statistics_and_origin(latent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = told(capsys, str(latent))
    assert status == 0
    assert "without latents, so with weight 0 in training: 1 sample" in text
    assert "encoder=a" in text
    assert "    2     0.0000     1.0000" in text


def test_contact_sheet_shows_pictures_by_class(made: Path, tmp_path: Path) -> None:
    run(Config(source=str(made), sheet=str(tmp_path / "sheet.png"), columns=5))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[0] == 2 * 100 + 4  # two classes, cells of 96 pixels and gaps
    labels = Dataset(made).index["label"]
    first = Dataset(made).read(int(np.flatnonzero(labels == 0)[0]))
    assert first
    assert not (sheet == DAMAGED).all(-1).any()
    assert (sheet == 255).all(-1).any()  # the white corner of the pictures


def test_a_contact_sheet_has_a_bounded_number_of_pictures() -> None:
    Config(source="raw", rows=100, columns=100)
    with pytest.raises(UserError, match=r"rows=101: expected at most 10000 pictures, here 100 rows"):
        Config(source="raw", rows=101, columns=100)


def test_contact_sheet_marks_what_cannot_be_decoded(raw: Path) -> None:
    dataset = Dataset(raw)
    row = int(np.flatnonzero(dataset.index["label"] == 0)[0])
    damage(dataset, row)
    sheet, damaged = contact_sheet(Dataset(raw), columns=5)
    assert [number for number, _ in damaged] == [row]
    assert (sheet == DAMAGED).all(-1).sum() == 96 * 96


def test_latent_sheet_is_the_mean_scaled(latent: Path) -> None:
    sheet, damaged = contact_sheet(Dataset(latent), rows=8)
    assert [number for number, _ in damaged] == [1]
    assert sheet.shape[0] == 8 * 100 + 4
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 30
    stored = latents_of(0, IMAGE)[0, :3, 0].astype(np.float32)  # row 0 is label 0, the first row
    expected = np.clip((stored / 6 + 0.5) * 255, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    left = int(np.flatnonzero((sheet[52] != PAPER).any(-1) & (np.arange(sheet.shape[1]) > 20))[0])
    shown = sheet[4:100, left : left + 96][12::24, 12::24]
    assert np.array_equal(shown, expected)


def test_a_sheet_of_latents_behind_a_url(
    latent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    here, there = contact_sheet(Dataset(latent)), contact_sheet(Dataset(f"file://{latent}"))
    assert np.array_equal(here[0], there[0])
    assert [number for number, _ in there[1]] == [1]


def test_verify_names_every_damaged_file_and_ends_with_status_1(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, str(raw), "action=verify")[:2] == (
        0,
        f"{raw}: all 6 files are as they were written\n",
    )
    names = [shard.name for shard in Dataset(raw).manifest.shards]
    (raw / names[0]).unlink()
    os.truncate(raw / names[1], 2048)
    shutil.copy(raw / names[2], raw / names[3])
    (raw / "foreign.tar").write_bytes(tar_bytes([("a.png", b"1")]))
    status, text, error = told(capsys, str(raw), "action=verify", f"json={tmp_path / 'x.json'}")
    assert status == 1
    assert [line.split()[0] for line in text.splitlines()] == [names[0], names[1], names[3], "foreign.tar"]
    assert "is missing" in text.splitlines()[0]
    assert "truncated tar: no end marker" in text.splitlines()[1] or "damaged" in text.splitlines()[1]
    assert "a whole tar of 4 samples, but not the one that was indexed" in text.splitlines()[2]
    assert error.splitlines()[-1].startswith("longtake inspect: 4 of 6 files are not as they were written")
    assert [entry["name"] for entry in json.loads((tmp_path / "x.json").read_text())["damaged"]] == [
        line.split()[0] for line in text.splitlines()
    ]


def test_verify_of_latents(latent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, str(latent), "action=verify")[0] == 0
    data = bytearray((latent / "000001.tar").read_bytes())
    data[900] ^= 1
    (latent / "000001.tar").write_bytes(data)
    status, text, _ = told(capsys, str(latent), "action=verify")
    assert status == 1
    assert text.startswith("000001.tar has another SHA-256")


def test_reindex_after_a_tar_was_replaced(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [shard.name for shard in Dataset(raw).manifest.shards]
    shutil.copy(raw / names[0], raw / names[3])
    assert told(capsys, str(raw), "action=verify")[0] == 1
    status, text, error = told(capsys, str(raw), "action=reindex")
    assert (status, "16 samples" in text, f"{names[3]} is not the tar" in error) == (0, True, True)
    assert told(capsys, str(raw), "action=verify")[0] == 0


def test_reindex_of_foreign_tars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes([("a.png", image_bytes(picture())), ("a.cls", b"1")]))
    assert told(capsys, str(tmp_path))[0] == 2
    assert told(capsys, str(tmp_path), "action=reindex")[0] == 0
    assert "1 sample" in told(capsys, str(tmp_path))[1]


def test_what_cannot_be_looked_at(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="expected a dataset"):
            run(Config(source=str(source)))
    with pytest.raises(UserError, match=r"sheet=x\.png: expected action=show"):
        Config(source="x", action="verify", sheet="x.png")
    with pytest.raises(UserError, match=r"source=pipe:cat x: expected a folder, or a URL"):
        run(Config(source="pipe:cat x"))


def test_a_newer_format_is_refused_by_every_action(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(manifest | {"format_version": 99}))
    before = (raw / "dataset.json").read_bytes()
    for action in ("show", "verify", "reindex"):
        status, _, error = told(capsys, str(raw), f"action={action}")
        assert (status, "format_version=99: expected 1 or 2 (written by a newer longtake)" in error) == (
            2,
            True,
        )
    assert (raw / "dataset.json").read_bytes() == before


def test_plan(made: Path) -> None:
    assert plan(Config(source=str(made), sheet="x.png")) == [f"show {made}", "write x.png"]


def test_sheet_is_a_png(made: Path, tmp_path: Path) -> None:
    run(Config(source=str(made), sheet=str(tmp_path / "s.png")))
    assert Image.open(io.BytesIO((tmp_path / "s.png").read_bytes())).format == "PNG"
