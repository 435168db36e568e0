"""Which attention backend a run takes: measured once, and then kept.

What is fastest depends on device, number type, width of a head and number of tokens, so `auto` times the
candidates, forward and backward, on random tensors of each length that the run has (rounded up to a power of
two). A candidate is timed only if its output and gradients are right: releases are known whose gradients are
wrong at a width of 72. What was found lies in the user's cache folder, for other runs, and in the run's own,
which comes first: backends round differently, so a run that continues must take those it began with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from core.distributed import ranks
from core.errors import UserError
from core.files import cache_folder, temporary_name, write_json
from core.metrics.hardware import device_name
from core.progress import say
from core.reading import json_files
from core.reading.json_files import Malformed
from core.run.folder import ATTENTION
from models.attention.backends import releases
from models.attention.by_heads import by_ring
from models.attention.dispatch import BACKENDS, Backend, attention, bucket, unavailable

CANDIDATES = {
    "cpu": ("chunked", "sdpa"),
    "cuda": ("sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa", "flash2", "flash3", "flash4"),
}
SECONDS = 0.1  # for one candidate, after a first call
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # |found - truth| / |truth|


@dataclass(frozen=True)
class AttentionHeads:
    """What a network's self-attention is made of: `count` heads of `width` numbers each.

    backend: the one that the configuration names.  sequence_ranks: ranks that share the tokens of an input.
    """

    count: int
    width: int
    backend: Backend = "auto"
    sequence_ranks: int = 1


@dataclass(frozen=True)
class Case:
    """What a choice depends on. tokens: as `bucket` gives it."""

    device: torch.device
    dtype: torch.dtype
    head_width: int
    tokens: int

    @property
    def key(self) -> str:
        """As it is written down."""
        dtype = str(self.dtype).removeprefix("torch.")
        machine = f"{device_name(self.device)}, torch {torch.__version__}"
        if self.device.type == "cuda":
            machine += f", {releases()}"
        return f"{machine}, {dtype}, head width {self.head_width}, {self.tokens} tokens"


def settle(
    heads: AttentionHeads, device: torch.device, dtype: torch.dtype, lengths: Iterable[int], run: Path
) -> dict[int, Backend]:
    """Choose a backend for each number of tokens, as `SelfAttention.choices` holds them (collective).

    Rank 0 finds out for all. dtype: of the network.  run: the run's folder, which keeps the choice.
    Empty where ranks exchange keys in a ring, which has products of its own.
    UserError where the backend that the configuration names cannot be had here, or computes something wrong.
    """
    if by_ring(heads.count, heads.sequence_ranks):
        shared = f"{heads.sequence_ranks} ranks cannot share {heads.count} heads evenly"
        say(f"attention: by a ring, since {shared}")
        return {}
    cases = [Case(device, dtype, heads.width, length) for length in sorted({bucket(n) for n in lengths})]
    chosen: dict[str, str] = ranks.on_first_rank(lambda: _settle(heads.backend, cases, run))
    backends = list(chosen.values())  # in order: the keys name the first rank's machine, not this one's
    for case, backend in zip(cases, backends, strict=True):
        how = " (auto)" if heads.backend == "auto" else ""
        say(f"attention: {backend} for {case.tokens} tokens{how}")
    return {c.tokens: cast(Backend, b) for c, b in zip(cases, backends, strict=True)}


def _settle(named: Backend, cases: list[Case], run: Path) -> dict[str, str]:
    if named != "auto":
        for case in cases[:1]:
            reason = unavailable(named, case.device.type) or wrong(named, case)
            if reason:
                raise UserError("attention", named, f"another backend, since {reason}")
        return {case.key: named for case in cases}
    record = run / ATTENTION
    known = _read(record)
    chosen = {}
    for case in cases:
        backend = known.get(case.key, "")
        if backend and (reason := unavailable(backend, case.device.type)):
            say(f"warning: this run began with attention by {backend}, which cannot be had now: {reason}")
            backend = ""
        chosen[case.key] = backend or _cached(case)
    if chosen.items() - known.items():
        write_json(record, {**known, **chosen})
    return chosen


def _cached(case: Case) -> str:
    """The choice of an earlier run of this user, or a measured one, which is kept for later ones.

    Of several runs that measure at the same time the first to be done decides for all.
    """
    name = hashlib.sha256(case.key.encode()).hexdigest()[:16]
    try:
        path = cache_folder() / "attention" / f"{name}.json"
    except UserError as error:
        say(f"warning: which attention is fastest is measured again by every run: {error}")
        return fastest(case)
    if known := _noted(path, case):
        return known
    found, temporary = fastest(case), temporary_name(path)
    try:
        write_json(temporary, {case.key: found})
        if path.exists() and not _noted(path, case):
            os.replace(temporary, path)  # a damaged note
        else:
            os.link(temporary, path)
    except FileExistsError:
        found = _noted(path, case) or found
    except OSError as error:
        say(f"warning: which attention is fastest could not be noted for other runs: {error}")
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return found


def _noted(path: Path, case: Case) -> str:
    """A usable choice, or ''."""
    name = _read(path).get(case.key, "")
    return "" if name and unavailable(name, case.device.type) else name


def fastest(case: Case) -> str:
    """The right candidate with the shortest forward and backward pass; `math` where none is right."""
    seconds = {}
    for name in CANDIDATES[case.device.type]:
        if unavailable(name, case.device.type):
            continue
        if reason := wrong(name, case):
            say(f"attention: {name} is left out: {reason}")
        else:
            seconds[name] = _seconds(cast(Backend, name), case)
    return min(seconds, key=seconds.__getitem__, default="math")


def wrong(name: str, case: Case) -> str:
    """Why `name` must not be used here, or '': its output and gradients against float64 written out."""
    inputs = _inputs(case, batch=2, tokens=96)
    try:
        found = _run(cast(Backend, name), inputs)
    except Exception as error:  # kernels compiled as they are called refuse in ways of their own
        return str(error).strip().partition("\n")[0] or "it fails"
    truth = _run("math", [x.detach().double().requires_grad_() for x in inputs])
    limit = TOLERANCE.get(case.dtype, TOLERANCE[torch.bfloat16])
    for what, got, want in zip(("output", "dq", "dk", "dv"), found, truth, strict=True):
        apart = float((got.detach().double() - want.detach()).norm() / want.detach().norm())
        if not apart < limit:
            return f"its {what} is off by {apart:.1g} at head width {case.head_width}"
    return ""


def _seconds(name: Backend, case: Case) -> float:
    inputs = _inputs(case, batch=max(1, 1024 // case.tokens), tokens=case.tokens)
    best, until = float("inf"), 0.0
    while best == float("inf") or time.perf_counter() < until:
        started = time.perf_counter()
        float(_run(name, inputs)[1].sum())  # waits for the device
        if until:
            best = min(best, time.perf_counter() - started)
        until = until or time.perf_counter() + SECONDS  # the first call sets things up
    return best


def _inputs(case: Case, batch: int, tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, tokens, 4, case.head_width)
    return [
        torch.randn(shape, generator=generator).to(case.device, case.dtype).requires_grad_() for _ in range(3)
    ]


def _run(name: Backend, inputs: list[Tensor]) -> list[Tensor]:
    out = attention(*inputs, backend=name)
    weight = torch.linspace(-1, 1, out.shape[1], device=out.device, dtype=out.dtype)[None, :, None, None]
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]


def _read(path: Path) -> Mapping[str, str]:
    """What a file of choices says; nothing where it is missing or damaged."""
    try:
        found = json_files.read(path, dict[str, str])
    except (OSError, Malformed):
        return {}
    return found if all(name in BACKENDS for name in found.values()) else {}
