"""The report: what is in it, what is left out, and that it needs no other file."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.files import write_json
from core.root import ROOT
from data.media.images import encode_mp4, encode_png
from launch.demo import report


class Elements(HTMLParser):
    """Names of the elements of a page, and of all their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    stages = [
        {"name": "train", "seconds": 90.0, "commands": ["python -m launch train a=1"]},
        {"name": "sample", "seconds": 30.0, "commands": ["python -m launch sample", "second <b>"]},
    ]
    write_json(tmp_path / "stages.json", {"digits": True, "stages": stages})
    for name in ("samples/images", "samples/clips", "scores", "run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "samples/images/images.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    encode_mp4(tmp_path / "samples/clips/clips.mp4", np.zeros((3, 16, 16, 3), np.uint8), 8)
    scores = {"class_agreement": 0.97, "reference_accuracy": 0.99, "recall": 0.3, "recall_real": 0.9}
    records = {"clip_agreement": None, "of": {"real": "x"}, "ruler": {"seed": 0}}
    write_json(tmp_path / "scores/scores.json", {**scores, **records})
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 1.0}, {"step": 3}]
    text = "\n".join(map(json.dumps, rows)) + '\n{"step": 4, "lo'
    (tmp_path / "run/metrics.jsonl").write_text(text)
    return tmp_path


def test_report_holds_everything_itself(folder: Path) -> None:
    report.run(report.Config(source=str(folder)))
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert page.count("data:video/mp4;base64,") == 1
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "second &lt;b&gt;" in page
    assert "Time: 2.0 minutes" in page
    assert page.count("<svg") == 2  # the loss curve of the run, and the time
    assert f"<code>{folder / 'run'}</code>" in page
    assert str(folder / "latents") not in page


def test_scores_are_marked_against_their_bars(folder: Path) -> None:
    page = report.render(folder)
    assert '<td class="yes">✓ ≥ 0.95</td>' in page
    assert '<td class="no">✗ ≥ 0.5 × real</td>' in page  # 0.3 < 0.45
    assert "clip_agreement" not in page
    record = json.loads((folder / "stages.json").read_text())
    write_json(folder / "stages.json", {**record, "digits": False})
    assert "✗" not in report.render(folder)


def begun(folder: Path, **last: object) -> None:
    """Record a demo whose first stage has finished and whose second is as `last` says."""
    done = {"name": "train", "identity": "1", "seconds": 90.0, "commands": []}
    stages = [done, {"name": "sample", "identity": "", "seconds": 5.0, "commands": [], **last}]
    planned = ["train", "sample", "evaluate"]
    write_json(folder / "stages.json", {"digits": True, "planned": planned, "stages": stages})


def test_a_page_under_way_says_what_comes_and_is_read_again(tmp_path: Path) -> None:
    begun(tmp_path)
    report.keep_current(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "after 1 min 35 s of work the demo is at stage 2 of 3, sample" in page
    assert 'http-equiv="refresh"' in page
    assert page.count("comes with the stage sample") == 3
    assert "comes with the stage evaluate" in page
    assert "comes with the stage train" not in page  # it has finished: nothing more comes of it
    assert "refresh" not in report.render(tmp_path)  # as the job `report` writes it


def test_a_page_of_a_failed_stage_keeps_what_there_is_and_the_error(folder: Path) -> None:
    begun(folder, error="exit status 1 <b>")
    report.keep_current(folder)
    page = (folder / "report.html").read_text()
    assert "The demo stopped in stage 2 of 3, sample" in page
    assert "exit status 1 &lt;b&gt;" in page
    assert "refresh" not in page
    assert page.count("data:image/png;base64,") == 1


def test_a_finished_page_waits_for_nothing(folder: Path) -> None:
    assert "comes with the stage" not in report.render(folder)  # by a version that planned no stages
    record = json.loads((folder / "stages.json").read_text())
    finished = [{**stage, "identity": "1"} for stage in record["stages"]]
    write_json(folder / "stages.json", {**record, "planned": ["train", "sample"], "stages": finished})
    page = report.render(folder, going_on=True)
    assert "comes with the stage" not in page
    assert "refresh" not in page


def test_a_page_that_cannot_be_made_ends_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "scores/scores.json").write_text("{")
    report.keep_current(folder)
    assert "report.html could not be written: " in capfd.readouterr().err


def test_pictures_are_called_what_they_are(folder: Path) -> None:
    path = folder / "scores/scores.json"
    scores = json.loads(path.read_text())
    write_json(path, {**scores, "heldout_unseen": True})
    assert "held-out pictures (right)" in report.render(folder)
    write_json(path, {**scores, "heldout_unseen": False})
    assert "training pictures (right)" in report.render(folder)


def test_curve_of_a_continued_run_takes_the_last_word_on_a_step(folder: Path) -> None:
    assert report.read_curve(folder / "run/metrics.jsonl", "loss") == [(1, 2.0), (2, 1.0)]
    assert report.read_curve(folder / "absent.jsonl", "loss") == []


def test_texts_of_others_do_nothing_in_the_page(tmp_path: Path) -> None:
    hostile = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x1b[2J\"'"
    folder = tmp_path / "<img src=x onerror=alert(3)>"
    (folder / "logs").mkdir(parents=True)
    stage = {"name": hostile, "seconds": 1.0, "commands": [hostile]}
    write_json(folder / "stages.json", {"digits": True, "stages": [stage]})
    page = report.render(folder)
    parser = Elements()
    parser.feed(page)
    assert not {"script", "img"} & parser.names
    assert not [name for name in parser.attributes if name.startswith("on")]
    assert not {"\u202e", "\x1b"} & set(page)
    assert "default-src 'none'" in page


def test_only_one_function_makes_html_of_texts() -> None:
    for path in sorted((ROOT / "launch").rglob("*.py")):
        assert "import html" not in path.read_text(), path


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected the folder of a demo run"):
        report.run(report.Config(source=str(tmp_path)))
