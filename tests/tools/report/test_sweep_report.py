"""The page about a sweep: its ledger, and the fit to what is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.config.loading import save
from core.run.folder import RUNS
from tests.tools.sweep.test_fitted import fill, row
from tools.report.job import write_page
from tools.sweep import ledger
from tools.sweep.config import Config


def page_of(*folders: Path) -> str:
    page = folders[0] / "page.html"
    write_page(page, tuple(map(str, folders)), sheet=False)
    return page.read_text()


def begin(folder: Path, *planned: str) -> None:
    folder.mkdir()
    save(Config(output=str(folder)), folder / "config.yaml")
    ledger.begin(folder, planned, "data")


def test_a_sweep_shows_its_law_and_names_what_is_missing_or_bad(tmp_path: Path) -> None:
    ladder = tmp_path / "ladder"
    names = [
        f"{budget:.3g}-N{N:.3g}" for budget in np.geomspace(1e15, 1e17, 4) for N in np.geomspace(3e5, 3e7, 5)
    ]
    begin(ladder, *names, "odd", "later")
    fill(ladder, row(1e15, 7e5, run="odd", state="diverged", losses={"raw": None}, reason="loss <inf>"))
    (ladder / RUNS).mkdir()
    page = page_of(ladder)
    assert "20 of 22 runs done" in page
    assert "law: L = 0.3" in page
    assert page.count("<svg") == 4
    assert "left out of the fit: odd diverged: loss &lt;inf&gt;" in page
    assert "<td>later<td><td><td><td><td><td>missing" in page
    assert "longtake sweep" in page


def test_a_sweep_just_begun_has_a_page_and_goes_on(tmp_path: Path) -> None:
    ladder = tmp_path / "ladder"
    begin(ladder, "first", "second")
    assert "0 of 2 runs done" in page_of(ladder)
    ledger.add(ladder, row(1e15, 3e5, run="first"))
    (ladder / RUNS).mkdir()
    (ladder / RUNS / "second.log").write_text("step 1\n")
    page = page_of(ladder)
    assert "1 of 2 runs done, last word of a run" in page
    assert "it goes on" in page
    assert "no fit yet: the law has 5 parameters: 1 finished run, at least 6 needed" in page


def test_two_sweeps_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        begin(tmp_path / name, name)
        ledger.add(tmp_path / name, row(1e15, 3e5, run=name))
    page = page_of(tmp_path / "one", tmp_path / "two")
    assert "<h2>Runs of one</h2>" in page
    assert "<h2>Runs of two</h2>" in page
