"""What every rank receives when ranks exchange objects or wait at the store, call by call.

A new call needs a row here, and so a thought about a thousand ranks.
Run: pytest tests/core/distributed/test_exchanges.py
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROOMS = ("core", "data", "models", "tools", "launch")
# Each brings an object of every rank to every rank (or to the first, and of its part of the tree to those
# between); what is BOUNDED is combined on the way, so that nobody receives those of all. `wait`, `check` and
# `multi_get` are the store's. What goes from one rank to the others (`broadcast_object`, `on_first_rank`) or
# of one that failed (`on_all_ranks`, `first_problem`) does not grow. Torch's own exchanges of objects, which
# connect ranks with many others, are called nowhere.
TO_ALL = {"gather_objects", "on_every_rank"}
TO_FIRST = {"gather_to_first"}
BOUNDED = {"first_of_ranks", "tally_of_ranks", "least_of_ranks"}
TORCHS = {"all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list"}
AT_STORE = {"wait", "check", "multi_get"}

# What one rank receives of N ranks, and when.
EXCHANGES = {
    (
        "core/checkpoint/writer.py",
        "gather_to_first",
    ): "a save, rank 0: N receipts of 3 names and hashes, 0.5 kB; others log2(N) / 2 on the mean",
    ("core/distributed/ranks.py", "gather_objects"): "carries out on_every_rank",
    ("core/engine/whole.py", "gather_objects"): "tests alone (full_state): tables of N ranks",
    ("core/faults/nonfinite.py", "first_of_ranks"): "a skipped step: 8 ranks x at most 32 samples, 2 kB",
    (
        "core/preflight/check.py",
        "gather_to_first",
    ): "the start of a submitted job, rank 0: N x facts of a rank, 1 kB; others log2(N) / 2 on the mean",
    ("core/run/early_end.py", "tally_of_ranks"): "the end of a run on a signal: names of signals, each once",
    ("core/train/corruption.py", "gather_objects"): "only where a check by MIN and MAX found a difference",
    (
        "data/loading/sources/measured.py",
        "on_every_rank",
    ): "statistics before step 1: N x sums of rows",
    (
        "tools/preview/previews.py",
        "on_every_rank",
    ): "a preview: names of its files, of those ranks that drew some",
    ("tools/runs/memory/run_memory.py", "tally_of_ranks"): "the start: the name of each node, and a number",
    ("tools/runs/memory/run_memory.py", "least_of_ranks"): "the start: a number",
}
WAITS = {
    ("core/distributed/device_choice.py", "wait"): "the start by NCCL: one key, which the last rank sets",
    ("core/distributed/device_choice.py", "check"): "the same: one key, of two ranks with one device",
    (
        "core/distributed/rendezvous.py",
        "wait",
    ): "the start under srun: rank 0 waits for one key, the last rank's",
    (
        "core/distributed/rendezvous.py",
        "check",
    ): "only where that has failed: rank 0 looks which of N is missing",
    ("core/distributed/waiting.py", "wait"): "all_arrived: one key, which the last rank to arrive sets",
    (
        "core/distributed/waiting.py",
        "check",
    ): "while ranks wait: rank 0 asks for N keys a second, others for one",
    ("core/distributed/waiting.py", "multi_get"): "the same: N numbers for rank 0, one for others",
    (
        "tools/sample/networks/failure_watch.py",
        "check",
    ): "ranks that share the tokens of samples: one key a second, set by a rank that fails",
}


def calls(names: set[str]) -> Iterator[tuple[str, str, ast.Call]]:
    """Yield file, name and call of every call of a function or method of these names."""
    for path in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in names:
                    yield str(path.relative_to(ROOT)), name, node


def test_every_exchange_of_objects_is_listed() -> None:
    assert {(path, name) for path, name, _ in calls(TO_ALL | TO_FIRST | BOUNDED)} == set(EXCHANGES)
    assert list(calls(TORCHS)) == []


def test_every_wait_at_the_store_is_listed() -> None:
    """A store is what is called so: other things are waited for too (threads, sums, processes)."""
    found = Counter(
        (path, name)
        for path, name, call in calls(AT_STORE)
        if isinstance(call.func, ast.Attribute) and "store" in ast.unparse(call.func.value)
    )
    assert set(found) == set(WAITS)
