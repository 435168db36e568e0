"""Run: pytest tests/core/metrics/test_rows.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core.distributed.ranks import World
from core.losses import Losses
from core.metrics.phases import Phases
from core.metrics.rows import Metrics, MetricsConfig, complete_row
from core.metrics.step_sums import COLUMNS, StepSums, vectors
from core.records import read_rows

ALONE = World(0, 1, 0, torch.device("cpu"))


def row(step: int) -> dict[str, Any]:
    return {"step": step, "lr": 0.1, "grad_norm": 1.0, "applied": True, "seconds": 2.0}


def one_step(metrics: Metrics, step: int, loss: float = 1.0) -> None:
    sums = StepSums(torch.device("cpu"))
    sums.add(Losses(torch.tensor([loss, loss])), torch.ones(2))
    metrics.record(row(step), sums, 0.5)


def test_means_are_over_true_samples_and_deciles(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, MetricsConfig(log_every=1), ALONE)
    sums = StepSums(torch.device("cpu"))
    time = torch.tensor([0.05, 0.05, 0.999, 1.0])
    extras = {"rate": torch.tensor([1.0, 2.0, 3.0, 100.0])}
    sums.add(Losses(torch.tensor([1.0, 3.0, 5.0, float("nan")]), time, extras), torch.tensor([1.0, 1, 1, 0]))
    sums.add(Losses(torch.tensor([7.0]), torch.tensor([0.55]), {"rate": torch.tensor([6.0])}), torch.ones(1))
    metrics.record(row(1) | {"tokens": 80}, sums, 0.5)
    (written,) = read_rows(tmp_path / "metrics.jsonl")
    assert written["loss"] == 4.0
    assert written["loss_by_decile"] == [2.0, None, None, None, None, 7.0, None, None, None, 5.0]
    assert (written["samples"], written["samples_per_s"], written["tokens_per_s"]) == (4.0, 2.0, 40.0)
    assert (written["rate"], written["data_wait"]) == (3.0, 0.25)


def test_steps_added_up_together_are_each_what_it_is_alone() -> None:
    generator = torch.Generator().manual_seed(0)

    def micro_batch(size: int) -> tuple[Losses, torch.Tensor]:
        loss, time, rate = torch.rand(3, size, generator=generator)
        return Losses(loss, time, {"rate": rate}), (torch.rand(size, generator=generator) < 0.8).float()

    steps = [StepSums(torch.device("cpu")) for _ in range(4)]
    for number, step in enumerate(steps):
        for size in (5, 3)[:number]:  # the first is a step that was passed over
            step.add(*micro_batch(size))
    together = vectors(steps, [0.1, 0.2, 0.3, 0.4])
    assert [len(one) for one in together] == [23, 24, 24, 24]
    for step, vector, waited in zip(steps, together, [0.1, 0.2, 0.3, 0.4], strict=True):
        assert torch.equal(vector, step.vector(waited))
        assert vector[0] == waited
        losses, weights = vector[1:23].view(2, 11)
        plain = torch.zeros(2, 11, dtype=torch.float64)
        for part, weight in step.parts:
            assert part.time is not None
            for loss, time, one in zip(part.loss, part.time, weight, strict=True):
                plain[:, int(time * 10)] += torch.stack([loss * one, one])
        torch.testing.assert_close(torch.stack([losses, weights]), plain)


def test_the_wait_for_data_is_the_mean_over_ranks() -> None:
    """Four ranks that waited 6 s together in a step of 2 s: each of them for three quarters of it."""
    written = complete_row(row(1), [], [6.0, *[0.0] * (2 * COLUMNS)], 4)
    assert written["data_wait"] == 0.75


def test_rows_are_written_in_bunches_and_nothing_is_lost(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, MetricsConfig(log_every=3), ALONE)
    metrics.start(0)
    counts = []
    for step in range(1, 6):
        one_step(metrics, step)
        counts.append(len(read_rows(tmp_path / "metrics.jsonl")))
        assert metrics.note().startswith("loss ") == (step >= 3)
    metrics.flush()
    assert counts == [0, 0, 3, 3, 3]
    assert [r["step"] for r in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_a_non_finite_number_becomes_null(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, MetricsConfig(log_every=1), ALONE)
    one_step(metrics, 1, float("nan"))
    assert read_rows(tmp_path / "metrics.jsonl")[0]["loss"] is None


def test_arithmetic_is_related_to_the_peaks_that_are_known(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, MetricsConfig(log_every=1), ALONE, peaks={"mfu": 4.0, "mfu_of_matmul": 2.5})
    sums = StepSums(torch.device("cpu"))
    sums.add(Losses(torch.ones(2)), torch.ones(2))
    metrics.record(row(1) | {"flops": 4e12}, sums, 0.5)
    metrics.peaks = {}
    metrics.record(row(2) | {"flops": 4e12}, sums, 0.5)
    known, unknown = read_rows(tmp_path / "metrics.jsonl")
    assert (known["tflops_per_s"], known["mfu"], known["mfu_of_matmul"]) == (2.0, 0.5, 0.8)
    assert unknown["tflops_per_s"] == 2.0
    assert "flops" not in known
    assert not {"mfu", "mfu_of_matmul"} & set(unknown)


def test_the_last_row_of_a_flush_compares_the_ranks(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, MetricsConfig(log_every=2), ALONE, phases=Phases())
    for step in range(1, 5):
        one_step(metrics, step)
    written = read_rows(tmp_path / "metrics.jsonl")
    assert ["ranks" in r for r in written] == [False, True, False, True]
    assert [r["loss"] for r in written] == [1.0] * 4
