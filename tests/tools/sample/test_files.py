"""Samples as files of their own: kinds, names, receipts, and that workers and kills change no byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import UserError
from core.files import write_text
from core.records import read_rows
from data.media.film.codecs import CODECS, encode_film
from data.media.images import decode_image, decode_video, probe
from tests.tools.made_runs import make_run
from tests.tools.sample.sample_runs import BATCH, COUNT, config, content, start_worker
from tools.runs.samples import Samples
from tools.sample import job as sample
from tools.sample.config import FilesConfig
from tools.sample.files.kinds import KINDS, FileKind
from tools.sample.files.naming import FIELDS, fill, ignores_case, require_different, require_template

VALUES: dict[str, Any] = {
    name: 3 if name in ("index", "row", "k", "seed", "number", "part") else "" for name in FIELDS
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.holds == "image"])
def test_images_are_written_as_they_are(run: Path, kind: Any) -> None:
    sample.run(config(run, "arrays"))
    sample.run(config(run, "files", files=FilesConfig(kind=kind, name="{class}/{index:03d}")))
    wanted, labels = Samples.read(run.parent / "arrays").load()
    found, found_labels = Samples.read(run.parent / "files").load()
    assert np.array_equal(Samples.read(run.parent / "files").labels, labels)
    assert np.array_equal(Samples.read(run.parent / "arrays").labels, labels)
    assert labels.tolist() == found_labels.tolist()
    if KINDS[kind].lossless:
        assert np.array_equal(wanted, found)
    else:  # of noise, WebP keeps the brightness alone
        grey, others = wanted.mean(-1), (found.mean(-1), np.roll(found, 1, axis=0).mean(-1))
        error, other = (np.abs(grey - each).mean() for each in others)
        assert error < 0.7 * other
    assert (run.parent / f"files/dog/001{KINDS[kind].suffix}").is_file()
    assert decode_image((run.parent / "files/overview.png").read_bytes()).ndim == 3
    record = json.loads((run.parent / "files/samples.json").read_text())
    assert record["files"]["kind"] == kind
    assert not (run.parent / "files/parts").exists()


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.holds == "clip"])
def test_clips_are_written_as_they_are(run: Path, kind: Any) -> None:
    files, side = FilesConfig(kind=kind), 72 if kind == "hevc" else 16
    sample.run(config(run, "files", count=2, frames=9, fps=24.0, files=files, height=side, width=side))
    (path, _) = sorted((run.parent / "files").glob(f"*{KINDS[kind].suffix}"))
    assert decode_video(path.read_bytes()).shape == (9, side, side, 3)
    if KINDS[kind].lossless:
        sample.run(config(run, "arrays", count=2, frames=9, fps=24.0))
        arrays, files_ = (Samples.read(run.parent / name).load()[0] for name in ("arrays", "files"))
        assert np.array_equal(arrays, files_)


@pytest.mark.parametrize("codec", CODECS)
def test_equal_frames_give_equal_bytes(codec: str) -> None:
    side = max(CODECS[codec].smallest, 32)
    frames = np.random.default_rng(0).integers(0, 255, (5, side, side, 3), np.uint8)
    assert len({encode_film(frames, 12.0, codec) for _ in range(4)}) == 1


@pytest.mark.parametrize(
    ("learned", "asked", "plays"), [(8.0, 0.0, 8.0), (8.0, 24.0, 24.0), (None, 0.0, 12.0)]
)
def test_films_play_as_the_clips_that_the_run_has_learned_from(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    learned: float | None,
    asked: float,
    plays: float,
) -> None:
    make_run(tmp_path / "run", monkeypatch, fps=learned)
    files = FilesConfig(kind="ffv1")
    sample.run(config(tmp_path / "run", "files", count=1, frames=9, fps=asked, files=files))
    (film,) = (tmp_path / "files").glob("*.mkv")
    assert probe(film).fps == plays
    (row,) = read_rows(tmp_path / "files/samples.jsonl")
    assert row["request"]["fps"] == plays


@pytest.mark.multiprocess
@pytest.mark.parametrize("fault", ["sample.batch:kill", "sample.publish:kill"])
def test_a_killed_worker_changes_no_file(run: Path, fault: str) -> None:
    files = {"files": FilesConfig(kind="png", name="{part}/{class}-{index}")}
    sample.run(config(run, "alone", **files))
    first = start_worker(config(run, "shared", **files), fault)
    first.join()
    assert first.exitcode == -9
    sample.run(config(run, "shared", **files))
    assert content(run.parent / "shared") == content(run.parent / "alone")


def test_receipts_whose_files_changed_are_made_anew(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = {"files": FilesConfig(kind="png")}
    sample.run(config(run, "alone", **files))
    worker = start_worker(config(run, "shared", **files), "sample.publish:kill")
    worker.join()
    output = run.parent / "shared"
    (output / "000001.png").write_bytes(b"")
    (output / f"{BATCH:06d}.png").unlink()
    receipt = output / f"parts/part-{2 * BATCH:06d}-{3 * BATCH - 1:06d}.json"
    receipt.write_text(receipt.read_text().replace('"index": 4', '"index": 5'))
    sample.run(config(run, "shared", **files))
    assert content(output) == content(run.parent / "alone")
    said = capfd.readouterr().err
    assert all(reason in said for reason in ("has another SHA-256", "is missing", "it lists other files"))
    assert len(list(output.glob("*.png"))) == COUNT + 1


@pytest.mark.parametrize(
    ("files", "more", "expected"),
    [
        ({"kind": "h264"}, {}, r"files\.kind=h264: expected one for images: png, webp, jpeg, or npz"),
        ({"kind": "png"}, {"frames": 9}, r"files\.kind=png: expected one for clips: h264, hevc, av1, ffv1"),
        ({"kind": "png", "quality": 3}, {}, r"files\.quality=3: expected null for png"),
        ({"kind": "webp", "quality": 101}, {}, r"files\.quality=101: expected 1 to 100 for webp"),
        ({"kind": "png", "name": "{class}"}, {}, r"another name for every sample: sample 3 and sample 0"),
        ({"kind": "png", "name": "overview{class}"}, {"classes": ("cat",)}, r"another name for every sample"),
        ({"kind": "png", "name": "../{index}"}, {}, r"a path below the output, not '\.\./0\.png'"),
        ({"kind": "png", "name": "/tmp/{index}"}, {}, r"a path below the output"),
        ({"kind": "png", "name": "{index}" + "x" * 260}, {}, r"names of at most 255 bytes"),
    ],
)
def test_files_that_cannot_be_are_refused_before_any_work(
    run: Path, files: dict[str, Any], more: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        sample.run(config(run, "bad", files=FilesConfig(**files), **more))
    assert not (run.parent / "bad").exists()


@pytest.mark.parametrize(
    "template", ["{what}", "{index", "{index:x%}", "{0}", "{class.__class__}", "{class:d}"]
)
def test_templates_with_other_fields_are_refused(template: str) -> None:
    with pytest.raises(UserError, match=r"^name="):
        require_template(template)


def test_names_hold_texts_as_they_are() -> None:
    assert fill("{name}-{k}", ".mp4", {**VALUES, "name": "a cat: 50 % ünlü?"}) == "a cat: 50 % ünlü?-3.mp4"
    assert fill("{folder}/{name:.3}", ".png", {**VALUES, "folder": "f", "name": "abcdef"}) == "f/abc.png"
    with pytest.raises(UserError, match="without '/'"):
        fill("{name}", ".png", {**VALUES, "name": "a/b"})
    with pytest.raises(UserError, match="sample 1 and sample 0"):
        require_different(["A.png", "a.png"], (), any_case=True)
    require_different(["A.png", "a.png"], (), any_case=False)


def test_whether_letter_case_counts_is_seen_in_folders_that_are_there(tmp_path: Path) -> None:
    """VBench's own list has prompts that differ in it alone."""
    (tmp_path / "samples").mkdir()
    assert not ignores_case(tmp_path / "samples" / "1" / "of")  # on a file system as Linux has
    (tmp_path / "SAMPLES").symlink_to(tmp_path / "samples")
    assert ignores_case(tmp_path / "samples" / "1" / "of")


def test_a_job_makes_images_and_clips(run: Path) -> None:
    write_text(run.parent / "r.csv", "class,frames\ncat,1\ndog,9\neel,1\n")
    files = FilesConfig(kind="png", films="ffv1")
    sample.run(config(run, "both", requests=str(run.parent / "r.csv"), files=files, count=100))
    rows = read_rows(run.parent / "both" / "samples.jsonl")
    assert [row["file"] for row in rows] == ["000000.png", "000001.mkv", "000002.png"]
    assert decode_video((run.parent / "both" / "000001.mkv").read_bytes()).shape[0] == 9


@pytest.mark.parametrize("kind", ["npz", "h264"])
def test_films_beside_no_images_are_refused(kind: FileKind) -> None:
    with pytest.raises(UserError, match="films=ffv1: expected '' with kind="):
        FilesConfig(kind=kind, films="ffv1")
