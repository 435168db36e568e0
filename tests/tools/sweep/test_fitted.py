"""The ledger of a sweep, and what `action=fit` makes of it."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.config.loading import load
from core.errors import UserError
from core.root import ROOT
from core.run.folder import FIT, SWEEP
from launch.sweep import job as sweep_job
from tools.sweep import ledger
from tools.sweep.config import FitConfig
from tools.sweep.fitted import PAGE, PLOTS, TABLE, fit_and_write
from tools.sweep.ledger import Result

TRUTH = (0.3, 40.0, 50.0, 0.34, 0.3)


def row(budget: float, N: float, **changed: Any) -> Result:
    per_sample = 6 * N * 64
    D = budget / per_sample
    E, A, B, a, b = TRUTH
    values: Any = {
        "run": f"{budget:.3g}-N{N:.3g}",
        "state": "done",
        "held_out": False,
        "budget": budget,
        "parameters": round(N),
        "samples": D,
        "flops": budget,
        "flops_per_sample": per_sample,
        "steps": 100,
        "losses": {"raw": E + A * N**-a + B * D**-b, "0.999": 2.0},
        "seconds": 2.0,
        "reason": "",
        "fields": {"model.width": f"{N:.3g}"},
    }
    return {**values, **changed}


def fill(output: Path, *more: Result) -> None:
    rows = [row(budget, N) for budget in np.geomspace(1e15, 1e17, 4) for N in np.geomspace(3e5, 3e7, 5)]
    for each in (*rows, *more):
        ledger.add(output, each)


def test_the_fit_finds_the_law_and_predicts_what_was_held_out(tmp_path: Path) -> None:
    failed = row(1e15, 7e5, state="failed", losses={}, reason="out of memory <b>")
    fill(tmp_path, row(4e17, 2e7, held_out=True), failed)
    lines = fit_and_write(tmp_path, FitConfig(), grid=False)
    record = json.loads((tmp_path / FIT).read_text())
    assert [record[name]["value"] for name in ("E", "a", "b")] == pytest.approx([0.3, 0.34, 0.3], rel=1e-4)
    assert record["runs"] == 20
    assert record["exponent"]["value"] == pytest.approx(0.3 / 0.64, rel=1e-4)
    (held_out,) = record["held_out"]
    assert held_out["times_compute"] == pytest.approx(4)
    assert held_out["share_of_gap"] < 0.001
    assert record["target"] == 4e17
    assert lines[0] == "left out of the fit: 1e+15-N7e+05 failed: out of memory <b>"
    assert "20 runs" in lines[1]
    assert {path.name for path in (tmp_path / PLOTS).iterdir()} == {
        "compute.png",
        "isoflop.png",
        "optimum.png",
        "residuals.png",
    }
    html = (tmp_path / PAGE).read_text()
    assert html.count("<svg") == 4
    assert "out of memory &lt;b&gt;" in html
    assert not re.search(r"(src|href)=.?http", html)


def test_the_table_has_what_another_fit_needs(tmp_path: Path) -> None:
    fill(tmp_path)
    fit_and_write(tmp_path, FitConfig(loss="0.999"), grid=True)
    rows = list(csv.DictReader(io.StringIO((tmp_path / TABLE).read_text())))
    assert len(rows) == 20
    assert list(rows[0])[10:12] == ["loss_0.999", "loss_raw"]
    E, A, B, a, b = TRUTH
    for each in rows:
        N, D = float(each["parameters"]), float(each["samples"])
        assert float(each["loss_raw"]) == pytest.approx(E + A * N**-a + B * D**-b, rel=1e-5)
        assert float(each["flops"]) == pytest.approx(float(each["flops_per_sample"]) * D)


def test_a_grid_is_compared_and_drawn(tmp_path: Path) -> None:
    for lr in ("1e-3", "2e-3", "4e-3"):
        for width in ("16", "32"):
            loss = abs(np.log(float(lr) / 2e-3)) + 1 / float(width)
            name = f"lr{lr}-width{width}"
            fields = {"optimizer.lr": lr, "model.width": width}
            ledger.add(tmp_path, row(1e15, 1e6, run=name, losses={"raw": loss}, fields=fields))
    lines = fit_and_write(tmp_path, FitConfig(), grid=True)
    assert lines[0] == "1. lr2e-3-width32: loss 0.03125"
    assert (tmp_path / PLOTS / "grid.png").is_file()


def test_few_runs_are_refused_and_their_table_is_written_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a sweep of which runs have ended"):
        fit_and_write(tmp_path, FitConfig(), grid=False)
    ledger.add(tmp_path, row(1e15, 1e6))
    with pytest.raises(UserError, match="1 finished run, at least 6 needed"):
        fit_and_write(tmp_path, FitConfig(), grid=False)
    assert (tmp_path / TABLE).is_file()


def test_a_ledger_may_gain_runs_and_lose_none(tmp_path: Path) -> None:
    assert ledger.begin(tmp_path, ["a", "b"], "data") == ["a", "b"]
    assert ledger.begin(tmp_path, ["a", "b"], "data") == []
    assert ledger.begin(tmp_path, ["c", "a", "b"], "data") == ["c"]
    with pytest.raises(UserError, match="ledger of another sweep: it has c, which this one does not"):
        ledger.begin(tmp_path, ["a", "b"], "data")
    with pytest.raises(UserError, match="over other samples to learn from"):
        ledger.begin(tmp_path, ["a", "b", "c"], "other")
    with pytest.raises(UserError, match="ledger of another sweep: it has b, which this one does not"):
        ledger.require_planned(tmp_path, ledger.earlier(tmp_path), ["a", "c"])


def test_a_ledger_is_not_fitted_by_another_sweep_s_file(tmp_path: Path) -> None:
    (tmp_path / SWEEP).write_bytes((ROOT / "docs/sweeps/digits-seed-1" / SWEEP).read_bytes())

    def fit(name: str) -> None:
        fields = ["source=x", f"output={tmp_path}", "action=fit"]
        sweep_job.run(load(sweep_job.Config, [ROOT / "configs/sweep" / f"{name}.yaml"], fields))

    with pytest.raises(UserError, match=r"another sweep: it has 1\.5e\+10-width16-depth2-heads2"):
        fit("isoflop")
    assert not (tmp_path / "report.html").exists()
    fit("digits")
    assert (tmp_path / "report.html").is_file()


def test_the_newest_row_of_a_run_counts_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    ledger.add(tmp_path, row(1e15, 1e6, state="failed", losses={}, reason="killed"))
    with open(tmp_path / SWEEP, "ab") as file:
        file.write(b'{"run": "1e+15-N1e+06", "sta')
    ledger.add(tmp_path, row(1e15, 1e6))
    (found,) = ledger.results(tmp_path).values()
    assert found["state"] == "done"
    assert ledger.rate({"a": found}) == pytest.approx(5e14)
