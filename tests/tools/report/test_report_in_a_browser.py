"""The page in a real browser: nothing overflows, curves have an area, and it is dark in the dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from core.files import read_bytes
from core.records import encode
from core.root import ROOT
from data.media.images import decode_media
from tools.report import job
from tools.report.config import Config

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium on the PATH to look at the page with")
MEASURE = """<script>addEventListener("load", () => {
  const box = e => e.getBoundingClientRect();
  const curves = [...document.querySelectorAll("svg polyline")].filter(e => box(e).width > 99);
  const texts = [...document.querySelectorAll(".charts svg text")].filter(e => box(e).height > 0);
  const small = texts.filter(e => box(e).height < 9);
  parent.postMessage([innerWidth, document.documentElement.scrollWidth, curves.length, small.length], "*");
});</script>"""
FRAMES = """<script>addEventListener("message", e => {
  const found = document.createElement("p"); found.id = "measured " + e.data.join(" ");
  document.body.append(found); });</script>"""
WIDTHS = (360, 1280)


def browse(*words: str) -> str:
    usual = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    found = subprocess.run([*usual, *words], capture_output=True, text=True, check=True, timeout=120)
    return found.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    run = Path(shutil.copytree(ROOT / "tests/fixtures/30fc6aa/run", folder / "run"))
    rows = [
        {"step": step, "loss": 1 + 1 / step, "grad_norm": 0.5, "lr": 1e-4, "seconds": 0.2, "samples": 8.0}
        for step in range(1, 3001)
    ]
    (run / "metrics.jsonl").write_bytes(b"".join(map(encode, rows)))
    other = shutil.copytree(run, folder / "a-run-with-a-long-name-that-has-to-go-somewhere")
    path = folder / "page.html"
    job.run(Config(source=(str(run), str(other)), output=str(path)))
    return path


def test_nothing_overflows_and_all_can_be_read(page: Path) -> None:
    """Measured by a script in a copy of the page, which itself allows none, in frames of two widths."""
    copy, frames = page.with_name("measured.html"), page.with_name("frames.html")
    copy.write_text(re.sub(r"<meta http-equiv[^>]*>", MEASURE, page.read_text()))
    each = "".join(f'<iframe src="{copy.name}" width={width} height=900></iframe>' for width in WIDTHS)
    frames.write_text(f"<!doctype html><body>{FRAMES}{each}")
    dom = browse("--virtual-time-budget=20000", "--dump-dom", frames.as_uri())
    measured = [list(map(int, found)) for found in re.findall(r'id="measured (\d+) (\d+) (\d+) (\d+)"', dom)]
    assert {found[0] for found in measured} == set(WIDTHS)
    for inner, whole, curves, small in measured:
        assert whole <= inner
        assert curves >= 12
        assert small == 0


@pytest.mark.full
def test_the_page_itself_runs_no_script(page: Path) -> None:
    marks = "<script>document.documentElement.id = 'has run'</script></head>"
    (allowing := page.with_name("allowing.html")).write_text(f"<html><head>{marks}<body>")
    (scripted := page.with_name("scripted.html")).write_text(page.read_text().replace("</head>", marks))
    assert 'id="has run"' in browse("--dump-dom", allowing.as_uri())
    assert 'id="has run"' not in browse("--dump-dom", scripted.as_uri())


@pytest.mark.full
def test_it_is_dark_in_the_dark(page: Path) -> None:
    light = []
    for scheme in ("light", "dark"):
        shot = page.with_name(f"{scheme}.png")
        wanted = {"light": 1, "dark": 0}[scheme]
        browse(f"--blink-settings=preferredColorScheme={wanted}", f"--screenshot={shot}", page.as_uri())
        light.append(float(np.mean(decode_media(read_bytes(shot)))))
    assert light[0] > 200
    assert light[1] < 60
