"""`evaluate measure=likelihood|bound`: the numbers of a known network, kept rows, and refusals."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from core.batch import Condition
from core.config.yaml_files import as_yaml, read_yaml
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.errors import UserError, WorkError
from core.faults import failpoints
from core.queue.config import QueueConfig
from data.dataset.index import Dataset
from data.latent.normalising import Normaliser
from data.latent.reading import LatentReader
from tests.core.diffusion.every_path import PATHS
from tests.forking import start_forked
from tests.integration.tiny_run import make_latents
from tests.tools.made_runs import make_run
from tools.evaluate import job as evaluate
from tools.evaluate.config import DensityConfig
from tools.evaluate.density import density_units, of_cache, of_samples

SPACE_MEAN, SPACE_STD = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 0.5, 1.5]
ROUGH = DensityConfig(batch=3, count=4, tolerance=0.05)
SHAPE = (2, 4, 1, 2, 2)  # 16 numbers: the trace is exact


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run = make_run(tmp_path / "run", monkeypatch, classes=[])
    make_latents(tmp_path / "cache", run / "autoencoder", ([SHAPE] * 7,))
    return tmp_path


def config(made: Path, name: str = "scores", **fields: Any) -> evaluate.Config:
    usual: dict[str, Any] = {"measure": "likelihood", "density": ROUGH, "device": "cpu", "seed": 1}
    usual |= {"source": str(made / "run"), "real": str(made / "cache"), "output": str(made / name)}
    return evaluate.Config(**{**usual, **fields})


def scores(made: Path, name: str = "scores") -> dict[str, Any]:
    return json.loads((made / name / "scores.json").read_text())


def normal_network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """Return the exact flow of normal data: samples are normal too, so that the density is known."""
    t = (time / 1000).double()[:, None, None, None, None]
    gain = (1 - t) / ((1 - t) ** 2 + t**2)
    noise = t / ((1 - t) ** 2 + t**2) * x
    return noise - gain * x


@pytest.mark.parametrize("posterior", ["mean", "draw"])
def test_normal_data_have_their_log_density_and_the_bound_lies_above(
    made: Path, monkeypatch: pytest.MonkeyPatch, posterior: Any
) -> None:
    whole = of_cache.open_run

    def known(*words: Any) -> Any:
        opened = whole(*words)
        monkeypatch.setattr(opened.model, "forward", normal_network)
        return opened

    monkeypatch.setattr(of_cache, "open_run", known)
    of = DensityConfig(batch=3, posterior=posterior, tolerance=1e-6)
    evaluate.run(config(made, density=of))
    found = scores(made)
    normaliser = Normaliser(tuple(SPACE_MEAN), tuple(SPACE_STD))
    rows = [json.loads(line) for line in (made / "scores" / "densities.jsonl").read_text().splitlines()]
    assert len(rows) == found["samples"] == 6  # one is absent
    if posterior == "mean":
        cache = Dataset(made / "cache")
        reader = LatentReader(cache.folder, cache.manifest, cache.index, cache.open_shard)
        kept = [row for row in range(7) if cache.index["size"][row] > 0]
        x = normaliser.apply(reader.gather(np.array(kept))[:, 0].double())
        expected = 0.5 * (x.square().flatten(1).sum(1) + 16 * math.log(2 * math.pi))
        mean = float(expected.sum()) / (16 * 6)
        assert abs(found["nats_per_dimension"] - mean) < 1e-3
        change = sum(4 * math.log(s) for s in SPACE_STD) / 16
        assert found["nats_per_raw_dimension"] == pytest.approx(found["nats_per_dimension"] + change)
        assert found["bits_per_dimension"] == pytest.approx(found["nats_per_dimension"] / math.log(2))
    evaluate.run(config(made, "bound", measure="bound", density=of))
    assert scores(made, "bound")["nats_per_dimension"] > found["nats_per_dimension"] - 0.02
    assert scores(made, "bound")["prior_per_dimension"] >= 0


def test_a_killed_job_goes_on_after_the_rows_that_are_there(made: Path, capsys: Any) -> None:
    evaluate.run(config(made, "whole"))
    evaluate.run(config(made, "cut"))
    rows = made / "cut" / "densities.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:2]) + lines[2][:20])
    (made / "cut" / "scores.json").unlink()
    evaluate.run(config(made, "cut"))
    one, other = scores(made, "cut"), scores(made, "whole")
    assert one["ruler"] == other["ruler"]
    for name in ("nats_per_dimension", "standard_error", "samples"):
        assert one[name] == pytest.approx(other[name], abs=1e-4)  # other samples share a batch
    assert (rows.read_text().splitlines(keepends=True))[:2] == lines[:2]
    assert "nats a number" in capsys.readouterr().out
    evaluate.run(config(made, "cut"))  # finished before


@pytest.mark.multiprocess
def test_two_workers_give_the_scores_of_one(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density_units, "SAMPLES", 2)
    queue = QueueConfig(heartbeat_s=0.1)
    evaluate.run(config(made, "alone", queue=queue))
    shared = config(made, "shared", queue=queue)

    def work(faults: str) -> None:
        failpoints.arm(faults)
        evaluate.run(shared)

    faults = ("evaluate.batch:sleep=0.2", "evaluate.batch:sleep=0.2")
    workers = [start_forked(work, fault) for fault in faults]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (made / "shared/scores.json").read_bytes() == (made / "alone/scores.json").read_bytes()
    rows = [
        sorted((made / name / density_units.ROWS).read_text().splitlines()) for name in ("alone", "shared")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 4
    assert not (made / "shared/.leases").exists()


def test_rows_of_other_weights_are_not_mixed(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate.run(config(made))
    (made / "scores" / "scores.json").unlink()
    whole = of_cache.open_run
    monkeypatch.setattr(of_cache, "open_run", lambda *words: replace(whole(*words), weights_sha256="other"))
    with pytest.raises(UserError, match=r"checkpoint=.*: expected the checkpoint and the data"):
        evaluate.run(config(made))


def test_many_numbers_are_estimated_by_keyed_signs(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_samples, "MOST_EXACT", 8)
    few = replace(ROUGH, batch=2, count=3)
    evaluate.run(config(made, "two", density=few))
    evaluate.run(config(made, "three", density=replace(few, batch=3)))
    one, other = scores(made, "two"), scores(made, "three")
    assert one["samples"] == 3
    assert one["nats_per_dimension"] == pytest.approx(other["nats_per_dimension"], abs=1e-5)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("steps", [2, 100, 1000])
def test_the_bound_is_of_times_that_fall_to_the_least_that_is_trained(name: PathName, steps: int) -> None:
    path = make_path(name)
    times = of_samples.bound_times(path, steps)
    assert all(later < earlier for earlier, later in itertools.pairwise(times))
    if path.num_steps is None:
        assert times[-1] == max(path.first, 1e-3)


@pytest.mark.parametrize("kind", ["likelihood", "bound"])
def test_what_is_not_finite_names_the_sample_and_is_measured_anew(
    made: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    whole = of_samples.denoiser

    def broken(*words: Any) -> Any:
        denoise = whole(*words)
        return lambda x, level: denoise(x * math.nan, level)

    with monkeypatch.context() as patch:
        patch.setattr(of_samples, "denoiser", broken)
        with pytest.raises(WorkError, match=r"sample \d+: what the network estimates is not finite at"):
            evaluate.run(config(made, measure=kind))
    rows = made / "scores" / "densities.jsonl"
    rows.write_text('{"id": 0, "nats": null, "numbers": 16, "of": "an earlier version"}\n')
    evaluate.run(config(made, measure=kind))
    assert math.isfinite(scores(made)["nats_per_dimension"])


def test_what_does_not_fit_is_named(made: Path) -> None:
    with pytest.raises(UserError, match=r"real='': expected a latent cache"):
        evaluate.plan(config(made, real=""))
    assert evaluate.plan(config(made))[0].startswith("likelihood of 4 samples of ")


def test_a_run_that_gives_the_data_at_once_has_no_flow(made: Path) -> None:
    file = made / "run" / "config.yaml"
    record = read_yaml(file)
    record.setdefault("objective", {})["kind"] = "consistency"
    file.write_text(as_yaml(record))
    with pytest.raises(UserError, match=r"source=.*: expected a run whose network gives the flow"):
        evaluate.run(config(made))
