"""Treatment of colours, alpha and kinds of media by `shard`, `inspect` and caches."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from data.dataset.index import Dataset
from data.media.colour import RULE
from data.media.formats import DEFAULT_LIMITS
from data.order.buckets import Bucket, BucketConfig
from data.raw.decoding import decoding_identity, read_pixels, sample_media
from data.reindexing.reindex import reindex
from tests.data.colours import coloured_film, pq, profile
from tests.data.samples import image_bytes, picture
from tools.shard import job as shard


def source(folder: Path) -> Path:
    """Make one file of each kind: plain, Display P3, with alpha, a PQ film, an animated GIF, a JPEG XL."""
    folder.mkdir()
    pixels = picture(32, 48)
    (folder / "plain.png").write_bytes(image_bytes(pixels))
    (folder / "p3.png").write_bytes(image_bytes(pixels, icc_profile=profile()))
    (folder / "clear.png").write_bytes(image_bytes(np.dstack([pixels, pixels[..., :1]])))
    white = pq(np.full((3, 3), 203.0))
    (folder / "pq.mkv").write_bytes(coloured_film(white, primaries=9, transfer=16))
    file = io.BytesIO()
    frames = [Image.fromarray(np.roll(pixels, n, 1)) for n in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    (folder / "moving.gif").write_bytes(file.getvalue())
    (folder / "new.jxl").write_bytes(b"\xff\x0a" + bytes(100))
    return folder


def packed(tmp_path: Path, **options: object) -> Dataset:
    output = tmp_path / f"raw-{'-'.join(map(str, options.values()))}"
    shard.run(
        shard.Config(
            source=str(tmp_path / "in"), output=str(output), quarantine_budget=4, shuffle=False, **options
        )
    )
    return Dataset(output)


def told(dataset: Dataset) -> dict[str, dict]:
    """Return the findings in the JSON of each sample, by the name of its source."""
    samples = [json.loads(dataset.read(row)["json"]) for row in range(len(dataset))]
    return {sample["source"]: sample.get("found", {}) for sample in samples}


def shown(dataset: Dataset, name: str) -> list[int]:
    """Return the middle of a sample of one frame or the first of two."""
    row = list(told(dataset)).index(name)
    frames = 2 if name == "pq.mkv" else 1
    pixels = read_pixels(dataset, row, Bucket(frames, 32, 48), BucketConfig(), DEFAULT_LIMITS)
    return pixels[0, 16, 24].tolist()


def test_what_was_met_is_recorded_said_and_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source(tmp_path / "in")
    dataset = packed(tmp_path)
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "ICC profiles: 1 x measured (brought to sRGB unless kept)" in said
    assert "colours: 1 x BT.2020, PQ (brought to BT.709 or sRGB unless kept)" in said
    assert "alpha: 1 x transparent (laid over white)" in said
    assert "1 x animated GIF (animated ones are films)" in said
    found = told(dataset)
    assert found["p3.png"] == {"profile": "measured"}
    assert found["pq.mkv"]["colour"] == "BT.2020, PQ"
    assert found["plain.png"] == {}
    (aside,) = [json.loads(line) for line in (dataset.folder / "quarantine.jsonl").read_text().splitlines()]
    assert aside["id"] == "new.jxl"
    assert "is a JPEG XL file, not a JPEG" in aside["error"]
    assert shown(dataset, "pq.mkv") == [255, 255, 255]
    assert decoding_identity(dataset, BucketConfig())["colour"] == RULE
    assert reindex(dataset.folder).manifest.fingerprint == dataset.manifest.fingerprint


def test_colours_are_kept_or_refused_where_that_is_asked(tmp_path: Path) -> None:
    source(tmp_path / "in")
    kept = packed(tmp_path, colour="keep")
    assert told(kept)["pq.mkv"]["colour"] == "BT.2020, PQ, kept"
    assert shown(kept, "pq.mkv") == [149, 149, 149]
    assert decoding_identity(kept, BucketConfig())["colour"] == "keep"
    again = reindex(kept.folder).manifest
    assert again.fingerprint == kept.manifest.fingerprint
    assert again.extra["colour"] == "keep"
    refused = packed(tmp_path, colour="refuse")
    reasons = (refused.folder / "quarantine.jsonl").read_text()
    assert "has colours BT.2020, PQ, and colour=refuse" in reasons
    assert "has the ICC profile 'measured', and colour=refuse" in reasons
    assert not {"pq.mkv", "p3.png"} & told(refused).keys()


def test_a_dataset_from_before_the_rules_is_refused_where_they_change_it(tmp_path: Path) -> None:
    source(tmp_path / "in")
    dataset = packed(tmp_path)
    names = list(told(dataset))
    manifest = dataset.folder / "dataset.json"
    values = json.loads(manifest.read_text())
    del values["sha256"]
    for name in ("media_rules", "found"):
        del values["extra"][name]
    manifest.write_text(json.dumps(values))
    before = Dataset(dataset.folder)
    for name, changed in (("p3.png", "profile"), ("pq.mkv", "colour")):
        with pytest.raises(UserError, match=f"its {changed} is .*action=reindex"):
            sample_media(before, names.index(name))
    sample_media(before, names.index("plain.png"))
    sample_media(before, names.index("clear.png"))  # white was always behind pictures
