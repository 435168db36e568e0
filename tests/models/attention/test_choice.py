"""The choice of a backend by a run, which keeps it. Run: pytest tests/models/attention/test_choice.py"""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.distributed.sequence import SequenceGroup
from core.errors import UserError
from core.run.folder import ATTENTION, CHECKPOINTS
from models.attention import backends, choice, measuring
from models.attention.choice import AttentionHeads, fastest, settle
from models.attention.dispatch import attention, bucket
from models.attention.measuring import Case, wrong
from models.attention.ring_kernels import KERNELS
from models.denoisers.dit import DiT, DiTConfig

CPU = torch.device("cpu")
CASE = Case(CPU, torch.bfloat16, 72, 64, ((2, 50), (3, 64)))
SMALL = DiTConfig(width=32, depth=2, heads=4, num_classes=3)
Captured = pytest.CaptureFixture[str]
SHAPES = [(2, 4, 1, 16, 16), (2, 4, 2, 16, 16)]  # 64 and 128 tokens


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Make `best` the fastest, in an empty cache folder of this name."""

    def use(best: str, cache: str) -> None:
        monkeypatch.setattr(choice, "seconds_of", lambda name, case: 1.0 if name == best else 2.0)
        monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / cache))

    return use


def sizes(config: DiTConfig) -> list[tuple[int, int]]:
    return [(samples, config.tokens((t, h, w))) for samples, _, t, h, w in SHAPES]


def settled(run: Path, config: DiTConfig = SMALL) -> dict[int, str]:
    model = DiT(config)
    model.use_attention(settle(config.attention_heads(), CPU, torch.float32, sizes(config), run))
    choices = [block.attention.choices for block in model.blocks]
    assert choices[0] == choices[1]
    return dict(choices[0])


@pytest.mark.parametrize(
    ("tokens", "expected"), [(1, 64), (64, 64), (65, 128), (4096, 4096), (5000, 8192), (10**6, 8192)]
)
def test_lengths_are_rounded_up_to_powers_of_two_within_limits(tokens: int, expected: int) -> None:
    assert bucket(tokens) == expected


def test_what_is_measured_is_a_candidate_and_takes_time() -> None:
    seconds = {name: measuring.seconds_of(name, CASE) for name in ("chunked", "sdpa")}
    assert all(0 < value < 10 for value in seconds.values())
    assert fastest(CASE) in seconds


def test_inputs_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heads, its micro-batches, each of its lengths, and the strides of parts of one product."""
    seen = []

    def look(query: Tensor, key: Tensor, value: Tensor, *, backend: str) -> Tensor:
        seen.append((tuple(query.shape), query.stride(), key.stride(), value.stride()))
        return attention(query, key, value, backend=backend)

    monkeypatch.setattr(measuring, "attention", look)
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    packed, apart = (3 * 4 * 72, 72, 1), (4 * 72, 72, 1)
    for lie, strides, of_values in (
        ({"in_place": True}, packed, packed),
        ({}, apart, packed),
        ({"traded": True}, apart, apart),  # what ranks have exchanged is whole tensors
    ):
        seen.clear()
        measuring.seconds_of("sdpa", replace(CASE, **lie))
        assert [shape for shape, *_ in seen] == [(2, 50, 4, 72)] * 2 + [(3, 64, 4, 72)] * 2
        for _, query, key, value in seen:
            assert query[1:] == key[1:] == strides
            assert value[1:] == of_values
    seen.clear()
    assert wrong("sdpa", CASE) == ""
    assert [shape[1] for shape, *_ in seen] == [50, 50, 64, 64]  # at each length, and the truth


def test_lengths_of_one_power_of_two_share_a_choice() -> None:
    heads = SMALL.attention_heads()
    assert heads.in_place
    assert not replace(SMALL, qk_norm=True).attention_heads().in_place
    taken = [(2, 50), (4, 64), (3, 50), (1, 100)]
    assert [(case.tokens, case.sizes) for case in choice._cases(heads, CPU, torch.float32, taken)] == [
        (64, ((3, 50), (4, 64))),
        (128, ((1, 100),)),
    ]
    shared = choice._cases(SMALL.attention_heads(2), CPU, torch.float32, taken)
    assert {(case.heads, case.in_place, case.traded) for case in shared} == {(2, False, True)}
    assert (
        len({CASE.measured, replace(CASE, traded=True).measured, replace(CASE, in_place=True).measured}) == 3
    )


def test_more_samples_change_what_is_measured_and_not_what_a_run_keeps() -> None:
    more = replace(CASE, sizes=((8, 64),))
    assert more.key == CASE.key
    assert more.measured != CASE.measured


def test_a_gpu_is_timed_by_its_own_events_while_calls_wait_in_its_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a stand-in: the order of what it is told. Python's own time is not in what the events measure."""
    told: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            told.append("record")

        def synchronize(self) -> None:
            told.append("wait")

        def elapsed_time(self, other: Event) -> float:
            return 20.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: told.append("sleep"))
    assert measuring.seconds_on_gpu(lambda: told.append("call")) == pytest.approx(0.002)
    one = ["sleep", "record", *["call"] * measuring.CALLS, "record", "wait"]
    assert told == one * measuring.ROUNDS


@pytest.mark.cuda
def test_kernels_and_not_python_are_timed_on_a_gpu() -> None:
    """A tiny call takes Python some 100 us, and the GPU a few."""
    case = replace(CASE, device=torch.device("cuda"), sizes=((1, 64),), head_width=64)
    inputs = measuring._inputs(case, 1, 64)
    gradient = torch.randn_like(inputs[0])
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(measuring.CALLS):
        torch.autograd.grad(attention(*inputs, backend="sdpa_flash"), inputs, gradient)
    queued = (time.perf_counter() - began) / measuring.CALLS
    assert measuring.seconds_of("sdpa_flash", case) < 0.7 * queued
    assert fastest(case) in choice.CANDIDATES["cuda"]


def test_the_choice_is_kept_for_other_runs_and_in_the_run(
    speeds: Callable[[str, str], None], tmp_path: Path, capsys: Captured
) -> None:
    speeds("sdpa", "cache")
    assert settled(tmp_path / "first") == {64: "sdpa", 128: "sdpa"}
    assert "attention: sdpa for 128 tokens (auto)" in capsys.readouterr().err
    record = json.loads((tmp_path / "first" / ATTENTION).read_text())
    assert list(record.values()) == ["sdpa", "sdpa"]
    assert all("cpu, torch" in key and "float32, head width 8" in key for key in record)
    speeds("chunked", "cache")
    assert settled(tmp_path / "second") == {64: "sdpa", 128: "sdpa"}
    speeds("chunked", "other cache")
    assert settled(tmp_path / "first") == {64: "sdpa", 128: "sdpa"}
    assert settled(tmp_path / "third") == {64: "chunked", 128: "chunked"}


def test_a_damaged_note_is_measured_again(speeds: Callable[[str, str], None], tmp_path: Path) -> None:
    speeds("sdpa", "cache")
    settled(tmp_path / "first")
    notes = list((tmp_path / "cache" / "attention").iterdir())
    assert len(notes) == 2
    for note, text in zip(notes, ('{"', '{"x": "fast"}'), strict=True):
        note.write_text(text)
    speeds("chunked", "cache")
    assert set(settled(tmp_path / "second").values()) == {"chunked"}
    assert [set(json.loads(note.read_text()).values()) for note in notes] == [{"chunked"}] * 2


def test_of_two_runs_at_the_same_time_the_first_decides(
    speeds: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds("chunked", "cache")

    def slow(case: Case) -> str:
        monkeypatch.setattr(choice, "fastest", lambda case: "sdpa")
        settled(tmp_path / "quick")
        return "chunked"

    monkeypatch.setattr(choice, "fastest", slow)
    assert settled(tmp_path / "slow") == {64: "sdpa", 128: "sdpa"}


def test_a_cache_that_cannot_be_written_is_a_warning(
    speeds: Callable[[str, str], None], tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "file").touch()
    speeds("sdpa", "file")
    assert set(settled(tmp_path / "run").values()) == {"sdpa"}
    assert "warning: which attention is fastest could not be noted" in capsys.readouterr().err


def test_a_user_without_a_home_measures_anew_with_a_warning(
    speeds: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    speeds("sdpa", "cache")
    for variable in ("LONGTAKE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert set(settled(tmp_path / "run").values()) == {"sdpa"}
    assert "LONGTAKE_CACHE='': expected a folder, since this user has no home" in capsys.readouterr().err


def test_ranks_on_other_machines_take_what_the_first_one_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = {"A100, 64 tokens": "math", "A100, 128 tokens": "chunked"}  # in the order of the lengths
    monkeypatch.setattr(choice.ranks, "on_first_rank", lambda work: sent)
    assert settled(tmp_path) == {64: "math", 128: "chunked"}


def test_ranks_that_share_tokens_by_a_ring_choose_among_its_kernels(tmp_path: Path, capsys: Captured) -> None:
    model = DiT(SMALL, SequenceGroup(0, 3, None))
    heads = SMALL.attention_heads(3)
    model.use_attention(settle(heads, CPU, torch.float32, sizes(SMALL), tmp_path))
    told = capsys.readouterr().err
    assert "attention: by a ring, since 3 ranks cannot share 4 heads evenly" in told
    assert "attention: sdpa_flash for 64 tokens in a ring (auto)" in told
    assert model.blocks[0].attention.choices == {64: "sdpa_flash", 128: "sdpa_flash"}
    record = json.loads((tmp_path / ATTENTION).read_text())
    assert {key.rpartition(", ")[2]: name for key, name in record.items()} == {
        "64 tokens in a ring": "sdpa_flash",
        "128 tokens in a ring": "sdpa_flash",
    }
    shares = [case.sizes for case in choice._cases(heads, CPU, torch.float32, sizes(SMALL))]
    assert shares == [((2, 22),), ((2, 43),)]


def test_a_run_whose_ring_had_products_alone_keeps_them(tmp_path: Path) -> None:
    """It kept no record of them; one that begins now does."""

    def begin(heads: AttentionHeads) -> set[str]:
        return set(settle(heads, CPU, torch.float32, sizes(SMALL), tmp_path).values())

    heads = SMALL.attention_heads(3)
    (tmp_path / CHECKPOINTS).mkdir(parents=True)
    assert begin(heads) == {"math"}
    assert begin(heads) == {"math"}
    assert begin(replace(heads, backend="sdpa_flash")) == {"sdpa_flash"}  # asked for by name
    (tmp_path / ATTENTION).unlink()
    (tmp_path / CHECKPOINTS).rmdir()
    assert begin(heads) == {"sdpa_flash"}
    (tmp_path / CHECKPOINTS).mkdir()
    assert begin(heads) == {"sdpa_flash"}


def test_a_kernel_of_a_ring_with_a_wrong_sum_is_never_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The log-sum-exp by which hops are joined is checked, not the output of one hop alone."""
    case = replace(CASE, ring=True)
    assert wrong("sdpa_flash", case) == wrong("math", case) == ""
    kernel = KERNELS["sdpa_flash"]

    def spoilt(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        out, log_total = kernel.forward(*inputs)
        return out, log_total * 0.5

    monkeypatch.setitem(KERNELS, "sdpa_flash", replace(kernel, forward=spoilt))
    assert fastest(case) == "math"
    assert "attention: sdpa_flash is left out: its output is off by" in capsys.readouterr().err


def test_another_release_of_a_library_for_attention_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "device_name", lambda device: "H200")
    versions = {"flash-attn-3": "3.0.0"}

    def version(package: str) -> str:
        if package not in versions:
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(backends.importlib.metadata, "version", version)
    case = replace(CASE, device=torch.device("cuda"))
    first = case.key
    assert first == case.key
    assert all(part in first for part in ("H200, torch", "cuDNN", "flash-attn-3 3.0.0"))
    assert "flash-attn-4" not in first
    versions["flash-attn-3"] = "3.0.1"
    assert case.key != first


def test_a_backend_that_fails_in_a_way_of_its_own_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    class CompilerError(Exception):
        pass

    def run(name: str, inputs: list, **options: bool) -> list:
        raise CompilerError("no such instruction")

    monkeypatch.setattr(measuring, "_run", run)
    assert fastest(CASE) == "math"
    assert "attention: sdpa is left out: no such instruction" in capsys.readouterr().err


def test_a_backend_with_a_wrong_gradient_is_never_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert wrong("sdpa", CASE) == wrong("chunked", CASE) == ""
    run = measuring._run

    def spoilt(name: str, inputs: list, **options: bool) -> list:
        out, dq, dk, dv = run(name, inputs, **options)
        return [out, dq * (1.05 if name == "sdpa" else 1.0), dk, dv]

    monkeypatch.setattr(measuring, "_run", spoilt)
    monkeypatch.setattr(choice, "seconds_of", lambda name, case: 1.0 if name == "sdpa" else 2.0)
    assert fastest(CASE) == "chunked"
    assert "sdpa is left out: its dq is off by 0.05 at head width 72" in capsys.readouterr().err


def test_a_backend_that_runs_out_of_memory_at_the_sizes_of_the_run_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def seconds(name: str, case: Case) -> float:
        if name == "chunked":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 GiB.")
        return 1.0

    monkeypatch.setattr(choice, "seconds_of", seconds)
    assert fastest(CASE) == "sdpa"
    assert "attention: chunked is left out: CUDA out of memory. Tried" in capsys.readouterr().err


def test_a_kernel_that_fails_in_its_own_way_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class CompilerError(Exception):
        pass

    def fail(*inputs: object, backend: str) -> None:
        raise CompilerError("no kernel for sm_103\nfrom here on its whole source")

    monkeypatch.setattr(measuring, "attention", fail)
    assert wrong("sdpa", CASE) == "no kernel for sm_103"


def test_a_named_backend_is_taken_or_refused_with_the_reason(tmp_path: Path) -> None:
    assert settled(tmp_path, replace(SMALL, attention="math")) == {64: "math", 128: "math"}
    assert not (tmp_path / ATTENTION).exists()
    with pytest.raises(UserError, match=r"^attention=flash4: .*(is not installed|needs a CUDA device)"):
        settled(tmp_path, replace(SMALL, attention="flash4"))
