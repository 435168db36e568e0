"""The report: a page for every kind of output, whatever of it is missing, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.config import loading
from core.errors import UserError
from core.files import write_json
from core.records import Row, encode
from core.root import ROOT
from data.media.pictures import write_png
from launch import arguments, jobs
from launch.cli import main
from launch.report import job as launched
from tools.pages.thinning import thinned
from tools.report import job
from tools.report.config import Config

EARLIER = ROOT / "tests/fixtures/30fc6aa"
VOID = {"meta", "input", "img", "br", "link"}


class Checked(HTMLParser):
    """Counts elements, and fails where they are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(*folders: Path, **fields: Any) -> str:
    output = folders[0].parent / "page.html"
    job.run(Config(source=tuple(map(str, folders)), output=str(output), **fields))
    text = output.read_text()
    for tag, attributes in Checked(text).seen:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    return text


def titles(page: str) -> list[str]:
    return re.findall(r"<title>(.*?)</title>", page, re.DOTALL)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "outputs"))


def row(step: int, attempt: str = "local.1", **more: Any) -> Row:
    base: Row = {
        "step": step,
        "lr": 1e-4,
        "grad_norm": 0.5,
        "seconds": 0.36,
        "loss": 1 / step,
        "samples": 8.0,
    }
    base |= {"loss_by_decile": [1.0] * 10, "data_wait": 0.01}
    if step % 10 == 0:
        base["ranks"] = {"count": 2, "memory_gb": 3.25, "save_stall_s": 0.0}
    return base | more | {"attempt": attempt}


@pytest.fixture
def make_run(tmp_path: Path, outputs: Path) -> Callable[..., Path]:
    def make(name: str, rows: list[Row], width: int = 16) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        text = (outputs / "run/config.yaml").read_text().replace("width: 16", f"width: {width}")
        (folder / "config.yaml").write_text(text)
        (folder / "metrics.jsonl").write_bytes(b"".join(map(encode, rows)))
        return folder

    return make


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("run", ("training run", "Validation loss", "Loss by noise level", "longtake train", "images.png")),
        ("autoencoder", ("autoencoder run", "squared error", "reconstructions.png", "psnr_db")),
        ("latents", ("latent cache", "contact sheet", "fingerprint")),
        ("raw", ("raw dataset", "contact sheet", "disc")),
        ("samples", ("samples", "step-00000007.local.1", "images.png")),
        ("scores", ("class_agreement", "0.4167", "frechet")),
        ("export", ("export", "sha256")),
    ],
)
def test_outputs_of_an_earlier_version_have_a_page(
    outputs: Path, name: str, expected: tuple[str, ...]
) -> None:
    page = page_of(outputs / name)
    for text in expected:
        assert text in page
    assert "What could not be read" not in page


def test_everything_in_a_folder_stands_side_by_side(outputs: Path) -> None:
    page = page_of(outputs)
    for kind in ("training run", "autoencoder run", "latent cache", "raw dataset", "samples", "export"):
        assert f"<th>{kind}</th>" in page


def test_what_happened_is_marked_where_it_happened(make_run: Callable[..., Path]) -> None:
    rows = [row(step, "local.1" if step <= 60 else "local.2") for step in range(1, 101)]
    for each in rows[60:]:
        if "ranks" in each:
            each["ranks"]["count"] = 4
    folder = make_run("run", rows)
    spike = {"kind": "spike", "step": 30, "grad_norm": 9.0, "clipped_to": 1.0}
    (folder / "incidents.jsonl").write_bytes(encode(spike))
    write_json(folder / "checkpoints/step-00000050.local.1/manifest.json", {"number": 1, "ranks": 2})
    found = titles(page_of(folder))
    assert "start local.2 went on after step 60" in found
    assert "4 ranks from about step 70 on, and 2 before" in found
    assert "spike at step 30: gradient norm 9.0, clipped to 1.0" in found
    assert "checkpoint step-00000050.local.1" in found


def test_curves_run_by_step_by_sample_and_by_hour(make_run: Callable[..., Path]) -> None:
    page = page_of(make_run("run", [row(step) for step in range(1, 101)]))
    for below in ("step", "samples seen", "hours of steps"):
        assert f'text-anchor="middle">{below}</text>' in page
    assert "<dd>800</dd>" in page  # samples seen
    assert "<dd>0.01</dd>" in page  # hours: 100 steps of 0.36 s


def test_runs_beside_each_other_say_in_what_they_differ(make_run: Callable[..., Path]) -> None:
    one = make_run("one", [row(step) for step in range(1, 50)])
    two = make_run("two", [row(step, loss=2.0) for step in range(1, 50)], width=32)
    page = page_of(one, two)
    different = page[page.index("What differs") :]
    assert "<tr><td>model.width</td><td class=n>16</td><td class=n>32</td></tr>" in different
    assert "model.depth</td><td" not in different
    assert "longtake train" in page


def test_a_spike_among_many_rows_stays_visible() -> None:
    y = np.random.default_rng(0).normal(1, 0.1, 100_000)
    y[77_777], y[5] = 40.0, -3.0
    y[500:505] = np.nan
    found = thinned(np.arange(100_000.0), y, (0, 100_000))
    assert len(found.x) == 400
    assert (found.high.max(), found.low.min()) == (40.0, -3.0)
    assert found.counts.sum() == 100_000 - 5
    assert found.lost.tolist() == [500, 501, 502, 503, 504]
    assert np.average(found.mean, weights=found.counts) == pytest.approx(np.nanmean(y))


def test_a_long_record_is_thinned_with_a_word_and_its_extremes_are_told(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.reading import record_columns as columns

    rows = [row(step) for step in range(1, 8001)]
    rows[5432] |= {"loss": 77.0}
    parsed: list[int] = []
    decode = columns.decode
    monkeypatch.setattr(columns, "decode", lambda line: parsed.append(1) or decode(line))
    page = page_of(make_run("run", rows))
    assert len(parsed) < 3600  # most rows are never parsed as a whole
    assert "of all 8,000 rows" in page
    assert any("to 77 (" in title for title in titles(page))
    assert "3.25 GB at most" in page


def test_what_is_not_finite_is_marked(make_run: Callable[..., Path]) -> None:
    rows = [row(step, **({"loss": None} if 20 <= step < 24 else {})) for step in range(1, 50)]
    assert "run: 1 not finite, from 20" in titles(page_of(make_run("run", rows)))


def test_what_is_missing_or_damaged_is_named_and_the_rest_is_shown(outputs: Path) -> None:
    run = outputs / "run"
    (run / "config.yaml").write_text("a: [")
    (run / "checkpoints/step-00000004.local.1/manifest.json").write_text("{")
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b"garbage\n")
    (outputs / "samples/samples.json").write_text('{"run"')
    (run / "run.lock").write_text("[]")
    page = page_of(run)
    named = page[page.index("What could not be read") : page.index("Overview")]
    for piece in ("config.yaml", "step-00000004.local.1/manifest.json", "1 line", "samples.json", "run.lock"):
        assert piece in named
    assert "<strong>Loss</strong>" in page


def test_a_damaged_dataset_has_a_page(outputs: Path) -> None:
    (outputs / "raw/data-000000.tar").unlink()
    assert "raw dataset" in page_of(outputs / "raw")
    (outputs / "latents/dataset.json").write_text("{}")
    assert "What could not be read" in page_of(outputs / "latents")


def test_a_run_without_rows_says_so(make_run: Callable[..., Path]) -> None:
    folder = make_run("run", [])
    (folder / "metrics.jsonl").unlink()
    page = page_of(folder)
    assert "no step was recorded yet" in page
    assert "longtake train" in page


def test_texts_of_others_do_nothing_in_the_page(make_run: Callable[..., Path]) -> None:
    evil = "<img src=x onerror=alert(1)>"
    folder = make_run(evil, [row(step, **{f"{evil}_loss": 1.0}) for step in range(1, 30)])
    (folder / "incidents.jsonl").write_bytes(encode({"kind": evil, "step": 3}))
    page = page_of(folder)
    assert evil not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_previews_of_a_few_steps_are_shown_and_nothing_outside_of_them(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run("run-with-previews", [row(step) for step in range(1, 10)])
    (run / "previews").mkdir()
    write_png(tmp_path / "outside.png", np.zeros((4, 4, 3), np.uint8))
    rows = []
    for step in range(1, 10):
        write_png(run / f"previews/step-{step:08d}-ema.png", np.full((4, 4, 3), step, np.uint8))
        rows.append({"step": step, "ema": {"overview": f"previews/step-{step:08d}-ema.png", "files": []}})
    rows.append({"step": 10, "ema": {"overview": "../outside.png"}, "raw": {"overview": "../../x.txt"}})
    (run / "previews.jsonl").write_bytes(b"".join(encode(each) for each in rows))
    page = page_of(run)
    assert "preview after step 1, average ema" in page
    assert "10 steps, of which 6 are shown" in page
    assert page.count("<figcaption>previews/") == 5  # the last one lies elsewhere
    assert "outside.png" not in page


def test_scores_taken_while_training_are_a_curve_an_average(make_run: Callable[..., Path]) -> None:
    run = make_run("scored", [row(step) for step in range(1, 10)])
    rows = [
        {"step": step, "0.9999": {"frechet": 9.0 / step, "ruler": {}}, "0.99": {"failed": "no"}}
        for step in (3, 6, 9)
    ]
    (run / "evaluations.jsonl").write_bytes(b"".join(encode(each) for each in rows))
    page = page_of(run)
    assert "Fréchet distance of latents" in page
    assert "average 0.9999" in page


def test_follow_writes_again_until_the_run_has_ended(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run("run", [row(step) for step in range(1, 20)])
    waits = []

    def go_on(seconds: float) -> None:
        waits.append(seconds)
        with open(folder / "metrics.jsonl", "ab") as file:
            file.write(encode(row(19 + len(waits))))
        if len(waits) == 3:
            write_json(folder / "finished.json", {"step": 22})

    monkeypatch.setattr(job.time, "sleep", go_on)
    page = page_of(folder, follow=True, follow_every=2.0)
    assert len(waits) == 3
    assert min(waits) >= 2.0
    assert "<dd>22 of 12</dd>" in page
    assert "no run is in progress any more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((), "at least one folder"),
        (("nothing",), "expected the output of a job.*nothing is there"),
        (("s3://bucket/latents",), "longtake inspect"),
    ],
)
def test_what_is_no_output_is_refused(source: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        job.run(Config(source=source))


def test_a_file_of_another_kind_is_not_replaced(outputs: Path) -> None:
    mine = outputs / "run/report.html"
    mine.write_text("<p>my own notes</p>")
    with pytest.raises(UserError, match="a file that longtake did not write is there"):
        job.run(Config(source=(str(outputs / "run"),)))
    assert mine.read_text() == "<p>my own notes</p>"
    mine.unlink()
    for _ in range(2):  # its own page is replaced
        job.run(Config(source=(str(outputs / "run"),)))
    with pytest.raises(UserError, match="ends in"):
        Config(source=("a",), output="page.pdf")


def test_the_command_line_takes_several_folders(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(outputs)
    typed = arguments.parse(["report", "a, b", "follow=true", "c"], jobs.SEVERAL)
    assert loading.load(Config, typed.files, typed.overrides).source == ("a, b", "c")
    assert main(["report", "run", "samples"]) == 0
    assert "training run" in (outputs / "report.html").read_text()
    with pytest.raises(UserError, match="one bare path"):
        arguments.parse(["inspect", "a", "b"], jobs.SEVERAL)


def test_a_demo_keeps_its_own_page(tmp_path: Path) -> None:
    stages = {
        "digits": False,
        "stages": [{"name": "encode", "commands": ["longtake encode"], "seconds": 1.0}],
    }
    (tmp_path / "stages.json").write_text(json.dumps(stages))
    launched.run(Config(source=(str(tmp_path),)))
    assert "longtake demo" in (tmp_path / "report.html").read_text()
