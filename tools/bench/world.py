"""Count what one rank of a large run does, for many numbers of ranks, in one process.

Nothing is sent: ranks are computed one after another, the first, the last and some between. So numbers are of
the processor, of files and of bytes that a rank would receive, not of a network or a file system with load.
"""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.checkpoint import format
from core.checkpoint.format import FileRecord
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.tensor_file import write_tensors
from core.distributed.agreement import order_hash
from core.distributed.tree import links
from core.engine.sharded_muon import MatrixExchange
from core.engine.shards import Cut, Cutting, Shard
from core.files import sealed, write_json
from core.optim.groups import OptimizerConfig, parameter_groups
from data.order.bucket_rows import BucketRows
from data.order.steps import CHECKED, BucketSamples, LoaderConfig, StepPlan
from models.denoisers.dit import DiTConfig
from tools.bench.job import Config
from tools.bench.opening import opening
from tools.bench.rounds import Floor, Row

PER_RANK = 256  # samples of a step
SHARD_SAMPLES = 1_000
OTHER_SHARDS = {"many_shards": 100, "large_shards": 10_000, "huge_shards": 100_000}  # samples of one
LOOKED_AT = 9  # ranks, spread from the first to the last
NETWORK = "DiT-XL/2"
KINDS = ("weight", "exp_avg", "exp_avg_sq", "ema-0.9999")
REPEATS = 3  # of the same steps' orders
MOST_ORDER_MS = 0.5
MOST_RECEIVED = 4_096  # bytes
HASH = "0" * 64
ON_NODE = 8  # ranks


def rows(config: Config, folder: Path) -> list[Row]:
    """Return a row for each number of ranks, and one of a dataset for very many."""
    of_ranks = [_row(config, folder / str(size), size) for size in config.ranks]
    return [*of_ranks, opening(config, folder / "opening")]


def _row(config: Config, folder: Path, size: int) -> Row:
    others = ", ".join(f"{kind}: {samples:,}" for kind, samples in OTHER_SHARDS.items())
    protocol = (
        f"{size:,} ranks x {PER_RANK} samples a step, of {config.index_rows:,} in shards of "
        f"{SHARD_SAMPLES:,} ({others}); {NETWORK} cut as ZeRO-3 cuts it; ms: processor time, of "
        f"{LOOKED_AT} ranks the slowest (order and its hash: mean of {config.rounds} steps, each the "
        f"fastest of {REPEATS})"
    )
    row = Row(f"{size:,} ranks", "ranks", protocol)
    looked_at = sorted({round(place) for place in np.linspace(0, size - 1, LOOKED_AT)})
    row.facts |= _order(config, size, looked_at) | _tables(config, size, looked_at)
    row.facts |= _checkpoint(folder, size, looked_at)
    unchanged, received = row.facts["files_opened"], row.facts["received_bytes"]
    row.floors += [
        *(
            Floor(name, row.facts[name], MOST_ORDER_MS, at_most=True)
            for name in ("order_ms", *(f"order_ms_of_{kind}" for kind in _bound(size)))
        ),
        Floor("files_opened, with as many ranks as wrote", unchanged, 1, at_most=True),
        Floor("received_bytes of a save, the mean of all but rank 0", received, MOST_RECEIVED, at_most=True),
    ]
    return row


def _bound(size: int) -> list[str]:
    """Return the kinds of shards whose order has a floor: huge ones only where a step has a block of them."""
    samples = LoaderConfig().shuffle_shards * OTHER_SHARDS["huge_shards"]
    return [kind for kind in OTHER_SHARDS if kind != "huge_shards" or size * PER_RANK >= samples]


def _order(config: Config, size: int, looked_at: Sequence[int]) -> dict[str, float]:
    """Count what a step's order costs a rank, and the rank whose turn it is to make the whole."""
    times, memory = [], []
    for rank in looked_at:
        plan = _plan(config.index_rows, SHARD_SAMPLES, rank, size)
        times.append(_step_ms(config, SHARD_SAMPLES, rank, size))
        memory.append(_peak_bytes(partial(plan.micro_batch_rows, config.rounds + 1)))
    whole = min(_cpu_ms(partial(plan.order.step, step)) for step in range(2))
    every = math.ceil(size * PER_RANK / CHECKED)
    others = {
        f"order_ms_of_{kind}": max(_step_ms(config, samples, rank, size) for rank in looked_at)
        for kind, samples in OTHER_SHARDS.items()
    }
    return {
        "order_ms": max(times),
        **others,
        "order_memory_bytes": max(memory),
        "whole_order_ms": whole,
        "steps_between_whole_orders_of_a_rank": float(every * size),
    }


def _plan(rows: int, shard_samples: int, rank: int, size: int) -> StepPlan:
    """Return a rank's plan of steps over so many rows of one bucket, whose shards are permuted already."""
    shards = max(1, rows // shard_samples)
    starts = np.arange(shards + 1) * shard_samples
    column = np.zeros(shards * shard_samples, np.uint16)
    bucket = BucketRows(column, starts, 0, np.full(shards, shard_samples))
    settings = LoaderConfig(group_size=size * PER_RANK, rank_multiple=size)
    buckets = [BucketSamples("latents", bucket, 256, False)]
    plan = StepPlan(buckets, settings, rank=rank, ranks=size, seed=0)
    plan.micro_batch_rows(0)
    return plan


def _step_ms(config: Config, shard_samples: int, rank: int, size: int) -> float:
    """Return the processor time of a step's order and its hash, the mean over a round's steps, each the
    quickest of some.

    Steps differ: those in which a block ends draw the keys of the next one.
    """
    took = []
    for _ in range(REPEATS):
        plan = _plan(config.index_rows, shard_samples, rank, size)
        took.append([_cpu_ms(partial(_ordered, plan, step)) for step in range(1, config.rounds + 1)])
    return float(np.min(took, axis=0).mean())


def _ordered(plan: StepPlan, step: int) -> None:
    """Make and hash a rank's rows of a step."""
    for part in plan.micro_batch_rows(step):
        order_hash(step, part.rows, part.positions)


def _tables(config: Config, size: int, looked_at: Sequence[int]) -> dict[str, float]:
    """Count what it costs a rank to know where Muon's matrices lie; nothing is received for it."""
    with torch.device("meta"):
        network = DiTConfig.presets[NETWORK].build()
    groups = parameter_groups(network, OptimizerConfig(name="muon"))
    hidden = {name for group in groups if group.get("rule") == "muon" for name in group["names"]}
    cuts = [cut for cut in _cuts(network, size) if cut.name in hidden]

    def made(rank: int) -> MatrixExchange:
        pieces = [(cut, *cut.piece(rank)) for cut in cuts]
        held = [Shard(cut.name, cut.shape, a, b, 0, 0) for cut, a, b in pieces if a < b]
        return MatrixExchange(cuts, held, rank, size, torch.bfloat16)

    took = [min(_cpu_ms(partial(made, rank)) for _ in range(2)) for rank in looked_at]
    return {
        "matrices": float(len(cuts)),
        "tables_ms": max(took),
        "tables_memory_bytes": max(_peak_bytes(partial(made, rank)) for rank in looked_at),
    }


def _checkpoint(folder: Path, size: int, looked_at: Sequence[int]) -> dict[str, float]:
    """Count files that a restart opens, and what a save tells the ranks, by files of a tiny network."""
    with torch.device("meta"):
        network = DiTConfig(width=16, depth=1, heads=1, num_classes=2).build()
    cuts, shapes = _cuts(network, size), {n: list(p.shape) for n, p in network.named_parameters()}
    files: dict[str, FileRecord] = {}
    folder.mkdir(parents=True)
    for rank in range(size):
        pieces = [(cut, *cut.piece(rank)) for cut in cuts]
        tensors = {format.key(k, c.name, a): torch.zeros(b - a) for k in KINDS for c, a, b in pieces if a < b}
        path = folder / format.tensors_name(rank)
        path.parent.mkdir(exist_ok=True)
        files[format.tensors_name(rank)] = write_tensors(path, tensors)
        files[format.receipt_name(rank)] = FileRecord(200, HASH)
    entries = {name: {"size": record.size, "sha256": record.sha256} for name, record in files.items()}
    manifest: dict[str, Any] = {"format": format.VERSION, "step": 1, "number": 1, "ranks": size}
    manifest |= {"kinds": list(KINDS), "shapes": shapes, "partial": {}, "files": entries}
    manifest["cuts"] = {cut.name: [cut.first, cut.size] for cut in cuts}
    publish = _cpu_ms(lambda: write_json(folder / format.MANIFEST, sealed(manifest)))
    of_rank = {name: files[name] for name in (format.tensors_name(0), format.receipt_name(0))}
    half = max(1, size // 2)
    return {
        "files_opened": max(_opened(folder, cuts, rank) for rank in looked_at),
        "files_opened_by_half_as_many": max(
            _opened(folder, _cuts(network, half), r * half // size) for r in looked_at
        ),
        "files_opened_with_replicas": _opened_with_replicas(network, size),
        **_received(size, of_rank),
        "manifest_bytes": float((folder / format.MANIFEST).stat().st_size),
        "manifest_write_ms": publish,
        "manifest_read_ms": min(_cpu_ms(lambda: CheckpointReader(folder)) for _ in range(3)),
        "manifest_memory_bytes": _peak_bytes(lambda: CheckpointReader(folder)),
    }


def _opened(folder: Path, cuts: Sequence[Cut], rank: int) -> float:
    """Return how many files of tensors a rank opens that reads what it holds by `cuts`."""
    opened = CheckpointReader(folder)
    for cut in cuts:
        start, stop = cut.piece(rank)
        for kind in KINDS if start < stop else ():
            opened.read(kind, cut.name, start, stop, torch.empty(stop - start))
    return float(len(opened._opened))


def _opened_with_replicas(network: torch.nn.Module, size: int) -> float:
    """Return how many files a rank opens where the ranks of a node share the state, as fsdp2's do."""
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    part = min(ON_NODE, size)
    cuts = [Cut(n, s, 0, 0, -(-s[0] // part) * (math.prod(s) // s[0])) for n, s in shapes.items()]
    cutting = Cutting(cuts, part, size // part)
    opened = [{r for c in cuts for r, _, _ in cutting.pieces(c.name, *c.piece(rank))} for rank in range(part)]
    return float(max(map(len, opened)))


def _cuts(network: torch.nn.Module, size: int) -> list[Cut]:
    """Return how ZeRO-3 cuts a network's parameters over so many ranks."""
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    return [Cut(name, shape, 0, 0, -(-math.prod(shape) // size)) for name, shape in shapes.items()]


def _received(size: int, receipt: Any) -> dict[str, float]:
    """Count what a save's receipts bring to ranks that pass them on to rank 0, and with whom these talk."""
    places = [links(rank, size) for rank in range(size)]
    sent = [1] * size  # receipts, its own included
    for rank in sorted(range(1, size), key=lambda rank: rank & -rank):  # children come before their parents
        sent[places[rank].parent or 0] += sent[rank]
    one = _sent_bytes([receipt])
    return {
        "received_bytes": one * (sum(sent[1:]) - (size - 1)) / max(1, size - 1),
        "received_bytes_of_rank_0": float(one * (size - 1)),
        "talks_with": float(max(1 + len(p.below) + len(p.above) for p in places[1:] or places)),
        "hops_of_a_receipt": float(max(_hops(rank, size) for rank in range(size))),
    }


def _hops(rank: int, size: int) -> int:
    """Return how many ranks pass on what this one sends to rank 0, that included."""
    parent, hops = links(rank, size).parent, 0
    while parent is not None:
        parent, hops = links(parent, size).parent, hops + 1
    return hops


def _sent_bytes(value: Any) -> int:
    """Return the bytes in which torch sends an object."""
    from torch.distributed.distributed_c10d import _object_to_tensor

    return int(_object_to_tensor(value, torch.device("cpu"), None)[1])


def _cpu_ms(work: Callable[[], Any]) -> float:
    """Return the processor time of work that needs no other thread; others that wait for work may spin."""
    start = time.thread_time()
    work()
    return 1000 * (time.thread_time() - start)


def _peak_bytes(work: Callable[[], Any]) -> float:
    """Return the most memory that Python and NumPy held at once for the work."""
    tracemalloc.start()
    try:
        work()
        return float(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
