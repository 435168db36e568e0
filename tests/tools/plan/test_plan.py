"""A plan: what it says of memory, arithmetic, traffic and disk, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from core.config.loading import load
from core.config.yaml_files import read_yaml
from core.engine.config import EngineConfig
from core.errors import UserError, WorkError
from core.memory.micro_batch import Measured
from core.memory.state import LIVE
from launch.cluster.config import ClusterConfig
from launch.cluster.fitting import require_fit
from models.denoisers.network import DenoiserConfig, count_parameters
from tests.integration.tiny_run import MODEL, make_autoencoder, make_latents
from tools.plan.config import Config
from tools.plan.job import run
from tools.plan.memory import POLICIES
from tools.plan.traffic import payloads, sent
from tools.train import denoiser_pass
from tools.train.config import Config as TrainConfig

KINDS = ("deepspeed", "fsdp2")
SMALL = ("model.width=64", "model.depth=2", "model.heads=2", "data.group_size=16", "data.rank_multiple=8")
SHAPES = ("plan.samples=1001", "plan.shapes=[[4,1,16,16],[4,5,16,16]]")


@pytest.fixture(scope="module", autouse=True)
def counted_once() -> Iterator[None]:
    """Count the activations of equal networks once: they do not depend on how many samples a step takes."""
    count = cache(denoiser_pass.activations)

    def remembered(model: DenoiserConfig, engine: EngineConfig, *rest: Any, **known: Any) -> Measured:
        return count(model, replace(engine, micro_batch="auto"), *rest, **known)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoiser_pass, "activations", remembered)
        yield


def planned(capsys: pytest.CaptureFixture[str], *fields: str) -> dict[str, Any]:
    run(load(Config, overrides=["format=json", *fields]))
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_parameters_shapes_and_disk_are_exact(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *SMALL, *SHAPES, "plan.device=H100")
    config = load(Config, overrides=[*SMALL, *SHAPES])
    assert found["parameters"] == count_parameters(config.model)
    assert [bucket["tokens"] for bucket in found["buckets"]] == [64, 5 * 64]
    assert sum(bucket["samples"] for bucket in found["buckets"]) == 1001
    per_sample = [2 * 2 * 4 * 256, 2 * 2 * 4 * 5 * 256]  # two moments of two bytes
    counts = [bucket["samples"] for bucket in found["buckets"]]
    assert found["cache_bytes"] == sum(n * size for n, size in zip(counts, per_sample, strict=True))
    assert found["checkpoint_bytes"] == 4 * 4 * found["parameters"]  # weights, moments, one average
    for bucket in found["buckets"]:
        assert sum(bucket["flops_by_part"].values()) == bucket["flops_of_a_sample"]
        assert bucket["flops_of_a_sample"] == 6 * bucket["multiply_adds_of_a_sample"]


def test_a_cache_gives_what_its_shapes_give(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_autoencoder(tmp_path / "autoencoder")
    cache = make_latents(tmp_path / "latents", tmp_path / "autoencoder")
    fields = (*MODEL, "data.group_size=8", "data.rank_multiple=8", "plan.device=A100", "plan.ranks=2")
    of_cache = planned(capsys, *fields, f"source={cache}")
    shapes = [bucket["latents"] for bucket in of_cache["buckets"]]
    counts = [bucket["samples"] for bucket in of_cache["buckets"]]
    stated = (f"plan.shapes={shapes}", f"plan.samples={sum(counts)}", f"plan.shares={counts}")
    of_shapes = planned(capsys, *fields, *stated)
    for found in (of_cache, of_shapes):
        for bucket in found["buckets"]:
            del bucket["name"]
        del found["largest_bucket"]
    assert of_cache == of_shapes


def test_the_recommendation_fits_and_shards_as_little_as_it_can(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    large = ("model.width=1024", "model.depth=8", "model.heads=8", "data.group_size=1024")
    fields = (*large, "plan.samples=1000", "plan.shapes=[[4,8,64,64]]", "plan.device=A100-40GB")
    write = tmp_path / "engine.yaml"
    found = planned(capsys, *fields, "action=write", f"file={write}")
    best = found["recommended"]
    assert best["fits"]
    assert best["bytes"] <= 0.8 * 40e9
    lower = [s for s in found["settings"] if s["zero_stage"] < best["zero_stage"]]
    same = ("activation_checkpointing", "sequence_parallel")
    assert not any(s["fits"] for s in lower if all(s[name] == best[name] for name in same))
    assert 128 % best["micro_batches"][0] == 0
    recommended = load(Config, [write], [*large])
    assert recommended.engine.zero_stage == best["zero_stage"]
    assert read_yaml(write)["engine"]["micro_batch"] == "auto"


def test_auto_stands_for_the_least_stage_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    large = ("model.width=8192", "model.depth=2", "model.heads=64", "data.group_size=8")
    fields = (*large, *SHAPES, "plan.device=A100-40GB", "engine.zero_stage=auto")
    found = planned(capsys, *fields)
    fitting = [s["zero_stage"] for s in found["settings"] if s["fits"] and s["sequence_parallel"] == 1]
    assert found["configured"]["zero_stage"] == min(fitting) > 0
    assert sum(share["numbers"] for share in found["ranks_have"]) == found["parameters"]
    with pytest.raises(WorkError, match="nothing fits"):
        run(load(Config, overrides=[*fields, "plan.ranks=1"]))
    assert "auto is 0 here, which takes least, and does not fit" in capsys.readouterr().out


def test_under_fsdp2_more_nodes_share_the_state_where_memory_asks_for_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoiser_pass, "activations", lambda *_, **__: Measured([1 << 28], [1 << 29]))
    large = ("model.width=4096", "model.depth=40", "model.heads=32", "data.rank_multiple=32")
    fields = (*large, *SHAPES, "engine.kind=fsdp2", "engine.zero_stage=auto", "plan.ranks=32")
    tight = planned(capsys, *fields, "plan.device=A100-40GB")
    shared = tight["configured"]
    assert (shared["shard_ranks"], shared["ranks_of_a_copy"], shared["fits"]) == (16, 16, True)
    assert tight["recommended"]["fields"]["engine"]["shard_ranks"] == 16
    numbers = [share["numbers"] for share in tight["ranks_have"]]
    assert numbers[:16] == numbers[16:]
    assert sum(numbers) == 2 * tight["parameters"]
    asked = planned(capsys, *fields, "plan.device=A100-40GB", "engine.zero_stage=3")
    assert (asked["configured"]["ranks_of_a_copy"], asked["configured"]["fits"]) == (8, False)
    assert asked["recommended"]["fields"]["engine"]["shard_ranks"] == 16
    with pytest.raises(WorkError, match="nothing fits"):  # those of a node, as they are asked for
        planned(capsys, *fields, "plan.device=A100-40GB", "engine.shard_ranks=8")


def test_a_network_that_does_not_suit_the_cache_is_refused_as_training_refuses_it(tmp_path: Path) -> None:
    make_autoencoder(tmp_path / "autoencoder")
    cache = make_latents(tmp_path / "latents", tmp_path / "autoencoder")
    fields = (*MODEL, "plan.device=A100", "plan.ranks=1", f"source={cache}", "model.input_channels=5")
    with pytest.raises(UserError, match=r"model\.input_channels=5: expected \d+, those of"):
        run(load(Config, overrides=fields))


def test_a_micro_batch_that_is_asked_for_is_the_one_that_is_planned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is recommended takes the most that fit; 0 is a rank's whole share, however much it takes."""
    large = ("model.width=1024", "model.depth=4", "model.heads=8", "data.group_size=2048", "plan.ranks=1")
    fields = (*large, "plan.samples=1000", "plan.shapes=[[4,1,32,32]]", "plan.device=A100-40GB")
    for asked, at_once, fits in ((4, 4, True), (0, 2048, False)):
        found = planned(capsys, *fields, f"engine.micro_batch={asked}")
        assert found["configured"]["micro_batches"] == [at_once]
        assert found["configured"]["fits"] == fits
        assert 4 < found["recommended"]["micro_batches"][0] < 2048
        assert found["recommended"]["fields"]["engine"]["micro_batch"] == "auto"


def test_every_micro_batch_of_every_setting_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    fields = (*SMALL, *SHAPES, "plan.device=H100", "plan.ranks=4", "data.rank_multiple=4")
    found = planned(capsys, *fields)
    assert {each["sequence_parallel"] for each in found["settings"]} == {1, 2, 4}
    names = ("engine", "sequence_parallel", "activation_checkpointing")
    counted = {tuple(each[name] for name in names) for each in found["settings"]}
    assert counted == set(product(KINDS, (1, 2, 4), POLICIES))
    assert found["recommended"]["activation_checkpointing"] == "none"  # all fit: the least recomputation
    stages = {kind: {s["zero_stage"] for s in found["settings"] if s["engine"] == kind} for kind in KINDS}
    assert stages == {"deepspeed": {0, 1, 2, 3}, "fsdp2": {2, 3}}
    assert found["recommended"]["engine"] == "deepspeed"  # as configured
    for setting in found["settings"]:
        state, update = sum(setting["parts"].values()), setting["update"]
        for bucket, sizes in zip(found["buckets"], setting["by_micro_batch"], strict=True):
            share = bucket["group"] * setting["sequence_parallel"] // 4
            assert [each["samples"] for each in sizes] == [n for n in range(1, share + 1) if share % n == 0]
            taken = [each["bytes"] for each in sizes]
            assert taken == sorted(taken)
            assert taken[0] >= state + update
            assert all(each["fits"] for each in sizes)
        largest = [sizes[-1]["bytes"] for sizes in setting["by_micro_batch"]]
        assert max(largest) == setting["bytes"]
    run(load(Config, overrides=fields))
    said = capsys.readouterr().out
    assert "with it so many samples of latents 4x5x16x16 at once" in said
    for policy in POLICIES:
        assert said.count(policy) >= len(KINDS), policy


def test_micro_batches_that_do_not_fit_are_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    large = ("model.width=1024", "model.depth=4", "model.heads=8", "data.group_size=2048", "plan.ranks=1")
    stated = ("plan.samples=1000", "plan.shapes=[[4,1,32,32]]", "plan.device=A100-40GB")
    run(load(Config, overrides=[*large, *stated]))
    table = capsys.readouterr().out.split("does not fit:\n")[1].split("\n\n")[0].splitlines()
    assert table[0].split()[6:-2] == ["1", "4", "8", "32", "64", "256", "512", "2048"]
    for row in table[1:]:
        cells = row.split()
        for cell in (*cells[5:13], cells[-1]):
            assert cell.startswith("(") == (float(cell.strip("()")) > 0.8 * 40), row
        assert not cells[-1].startswith("("), row  # as many as fit
    assert "(" in table[1]


def test_a_compiled_network_has_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, *SMALL, *SHAPES, "plan.device=H100", "engine.compile=true")
    assert {s["zero_stage"] for s in found["settings"] if s["engine"] == "deepspeed"} == {0, 1, 2, 3}


def test_memory_is_said_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    run(load(Config, overrides=[*SMALL, *SHAPES, "plan.device=H100", "engine.gradient_dtype=bf16"]))
    said = capsys.readouterr().out.splitlines()
    of_a_rank = [line for line in said if line.startswith("  of a rank: ")]
    assert len(of_a_rank) == 2  # as configured, and as recommended
    for part in ("weights", "masters", "gradients", "moments", "averages", "communication", "activations"):
        assert f"{part} " in of_a_rank[0], part
    assert any(line.startswith("checkpoints: ") and line.endswith("/s to disk on average") for line in said)


def test_times_follow_the_data_sheet_and_the_stated_share_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    fields = (*SMALL, *SHAPES, "plan.device=H200", "plan.price=2", "trainer.steps=1000000")
    least, real = planned(capsys, *fields), planned(capsys, *fields, "plan.mfu=0.25")
    step = least["recommended"]["step_s"]
    parts = least["recommended"]["step_parts_s"]
    assert parts["arithmetic"] == pytest.approx(least["step"]["flops"] / 8 / 989e12)
    assert parts["update"] == pytest.approx(least["parameters"] * (4 * 10 + 2) / 4.8e12)  # stage 0: all of it
    assert parts["traffic"] == pytest.approx(least["recommended"]["sent_bytes_per_step"] / 450e9)
    assert step == pytest.approx(sum(parts.values()))
    assert real["recommended"]["step_s"] == pytest.approx(4 * parts["arithmetic"])
    assert real["recommended"]["gpu_hours"] == pytest.approx(8 * 4 * parts["arithmetic"] * 1e6 / 3600)
    assert real["recommended"]["price"] == pytest.approx(2 * real["recommended"]["gpu_hours"])


def test_nothing_fits_where_the_state_alone_is_too_large(capsys: pytest.CaptureFixture[str]) -> None:
    huge = ("model.width=8192", "model.depth=2", "model.heads=64", "plan.ranks=1", "data.group_size=8")
    with pytest.raises(WorkError, match=r"nothing fits a A100-40GB: the least .* takes [\d.]+ GB of a"):
        run(load(Config, overrides=[*huge, *SHAPES, "plan.device=A100-40GB"]))
    assert "as configured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("plan.device=V100",), "plan.device=V100: expected one of A100-40GB, A100, H100"),
        (("plan.shapes=[[3,1,16,16]]",), r"plan.shapes=\[3, 1, 16, 16\]: expected 4 channels"),
        (("plan.shapes=[[4,1,17,16]]",), "patch="),
        (("plan.samples=0",), "plan.samples=0: expected how many samples there are, or a source"),
        (("plan.shares=[1]",), r"plan.shares=\[1.0\]: expected 2 numbers"),
        (("plan.ranks=3",), "3 data-parallel ranks do not divide it"),
        (("engine.sequence_parallel=3",), "engine.sequence_parallel=3: expected a divisor of plan.ranks=8"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(load(Config, overrides=[*SMALL, *SHAPES, *fields]))


@pytest.mark.parametrize("ranks", [1, 2, 8, 4096])
def test_rings_send_nearly_the_payload_or_twice_that(ranks: int) -> None:
    numbers = 1_000_000
    gathered = payloads(numbers, zero_stage=1, bf16=True, micro_batches=4)
    assert sent(gathered, ranks) == pytest.approx(3 * 2 * numbers * (ranks - 1) / ranks)
    after_each = payloads(numbers, zero_stage=2, bf16=True, micro_batches=4)
    assert after_each["all_reduce"] == 4 * gathered["all_reduce"]
    large = payloads(2 * LIVE, zero_stage=3, bf16=True, micro_batches=4)
    assert large["all_gather"] == 2 * 4 * 2 * LIVE * 2


def test_a_run_that_cannot_fit_is_not_queued(tmp_path: Path) -> None:
    make_autoencoder(tmp_path / "autoencoder")
    cache = make_latents(tmp_path / "latents", tmp_path / "autoencoder")
    small = load(TrainConfig, overrides=[f"source={cache}", "output=x", *MODEL])
    assert require_fit("train", small, ClusterConfig(gpus_per_node="8")) == []
    assert "is not checked" in require_fit("train", small, ClusterConfig(gpus_per_node="v100:1"))[0]
    (line,) = require_fit("train", small, ClusterConfig(gpus_per_node="h200:1"))
    assert line.startswith("h200: the run takes")
    wide = ("model.width=8192", "model.depth=4", "model.heads=64")
    large = load(TrainConfig, overrides=[f"source={cache}", "output=x", *MODEL, *wide])
    with pytest.raises(
        UserError, match=r"the run takes .* GB of 40 on each a100-40gb with engine.zero_stage=1"
    ):
        require_fit("train", large, ClusterConfig(gpus_per_node="a100-40gb:8"))
