"""Choose the attention backend of a run: measured once, and then kept.

What is fastest depends on device, number type, heads, their width, micro-batch, number of tokens and how
queries lie in memory, so `auto` times the candidates, forward and backward, on random tensors as the run has
them; lengths that round up to one power of two share a choice. A candidate is timed only if its output and
gradients are right at each length: releases are known whose gradients are wrong at a width of 72. The result
is kept in the user's cache folder, for other runs, and in the run's own, which comes first: backends round
differently, so a run that continues must use those it began with.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from core.distributed import ranks
from core.errors import UserError
from core.files import temporary_name, write_json
from core.progress import say
from core.reading import json_files
from core.reading.json_files import Malformed
from core.root import cache_folder
from core.run.folder import ATTENTION, CHECKPOINTS
from models.attention.by_heads import by_ring
from models.attention.dispatch import BACKENDS, Backend, bucket, unavailable
from models.attention.measuring import IN_A_RING, Case, seconds_of, wrong

CANDIDATES = {
    "cpu": ("chunked", "sdpa"),
    "cuda": ("sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "sdpa", "flash2", "flash3", "flash4"),
}
RING_CANDIDATES = {"cpu": ("sdpa_flash",), "cuda": ("sdpa_flash", "sdpa_cudnn", "sdpa_efficient")}


@dataclass(frozen=True)
class AttentionHeads:
    """The shape of a network's self-attention: `count` heads of `width` numbers each.

    backend: the one that the configuration names.  sequence_ranks: ranks that share the tokens of an input.
    in_place: whether queries and keys stay where one product wrote them, beside the values: without norm and
    rotation.
    """

    count: int
    width: int
    backend: Backend = "auto"
    sequence_ranks: int = 1
    in_place: bool = False


def settle(
    heads: AttentionHeads,
    device: torch.device,
    dtype: torch.dtype,
    sizes: Iterable[tuple[int, int]],
    run: Path,
) -> dict[int, Backend]:
    """Choose a backend for each number of tokens, as `SelfAttention.choices` holds them (collective).

    Rank 0 measures for all. dtype: of the network.  sizes: samples and tokens of its inputs.  run: the run's
    folder, which keeps the choice.
    UserError where the backend that the configuration names is not available here, or computes wrong results.
    """
    if ring := by_ring(heads.count, heads.sequence_ranks):
        shared = f"{heads.sequence_ranks} ranks cannot share {heads.count} heads evenly"
        say(f"attention: by a ring, since {shared}")
    cases = _cases(heads, device, dtype, sizes)
    chosen: dict[str, str] = ranks.on_first_rank(lambda: _settle(heads.backend, cases, run))
    backends = list(chosen.values())  # in order: the keys name the first rank's machine, not this one's
    for case, backend in zip(cases, backends, strict=True):
        how = " (auto)" if heads.backend == "auto" else ""
        around = IN_A_RING if ring else ""
        say(f"attention: {backend} for {case.tokens} tokens{around}{how}")
    return {c.tokens: cast(Backend, b) for c, b in zip(cases, backends, strict=True)}


def _cases(
    heads: AttentionHeads, device: torch.device, dtype: torch.dtype, sizes: Iterable[tuple[int, int]]
) -> list[Case]:
    """Return a case for each rounded length, with the most samples of every length in it.

    In a ring a rank has all heads of its share of the tokens.
    """
    ring = by_ring(heads.count, heads.sequence_ranks)
    most: dict[int, int] = {}
    for samples, tokens in sizes:
        most[tokens] = max(samples, most.get(tokens, 0))
    found: dict[int, list[tuple[int, int]]] = {}
    for tokens in sorted(most):
        there = -(-tokens // heads.sequence_ranks) if ring else tokens
        found.setdefault(bucket(tokens), []).append((most[tokens], there))
    count = heads.count if ring else heads.count // heads.sequence_ranks
    traded = heads.sequence_ranks > 1 and not ring
    in_place = heads.in_place and heads.sequence_ranks == 1
    return [
        Case(device, dtype, heads.width, rounded, tuple(inputs), count, in_place, traded, ring)
        for rounded, inputs in found.items()
    ]


def _settle(named: Backend, cases: list[Case], run: Path) -> dict[str, str]:
    if named != "auto":
        for case in cases:
            reason = unavailable(named, case.device.type) or wrong(named, case)
            if reason:
                raise UserError("attention", named, f"another backend, since {reason}")
        return {case.key: named for case in cases}
    record = run / ATTENTION
    known = _read(record)
    chosen = {}
    for case in cases:
        backend = known.get(case.key, "math" if case.ring and _of_earlier_version(run, known) else "")
        if backend and (reason := unavailable(backend, case.device.type)):
            say(f"warning: this run began with attention by {backend}, which cannot be had now: {reason}")
            backend = ""
        chosen[case.key] = backend or _cached(case)
    if chosen.items() - known.items():
        write_json(record, {**known, **chosen})
    return chosen


def _of_earlier_version(run: Path, known: Mapping[str, str]) -> bool:
    """Return whether a run began when a ring had products written out alone, and kept no record of it."""
    return (run / CHECKPOINTS).exists() and not any(key.endswith(IN_A_RING) for key in known)


def _cached(case: Case) -> str:
    """Return the choice of an earlier run of this user, or measure one and keep it for later runs.

    Of several runs that measure at the same time the first to be done decides for all.
    """
    name = hashlib.sha256(case.measured.encode()).hexdigest()[:16]
    try:
        path = cache_folder() / "attention" / f"{name}.json"
    except UserError as error:
        say(f"warning: which attention is fastest is measured again by every run: {error}")
        return fastest(case)
    if known := _noted(path, case):
        return known
    found, temporary = fastest(case), temporary_name(path)
    try:
        write_json(temporary, {case.measured: found})
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
    """Return a recorded choice if it is usable, or ''."""
    name = _read(path).get(case.measured, "")
    return "" if name and unavailable(name, case.device.type) else name


def fastest(case: Case) -> str:
    """Return the correct candidate with the fastest forward and backward; `math` where none is correct.

    One that runs out of memory at the run's own sizes, as torch's does where no fused kernel serves, is none.
    """
    seconds = {}
    for name in (RING_CANDIDATES if case.ring else CANDIDATES)[case.device.type]:
        if unavailable(name, case.device.type):
            continue
        reason = wrong(name, case)
        if not reason:
            try:
                seconds[name] = seconds_of(cast(Backend, name), case)
            except torch.OutOfMemoryError as error:
                reason = str(error).partition("\n")[0]
        if reason:
            say(f"attention: {name} is left out: {reason}")
    return min(seconds, key=seconds.__getitem__, default="math")


def _read(path: Path) -> Mapping[str, str]:
    """Return the content of a file of choices; nothing where it is missing or damaged."""
    try:
        found = json_files.read(path, dict[str, str])
    except (OSError, Malformed):
        return {}
    return found if all(name in BACKENDS for name in found.values()) else {}
