"""Run the tests of a module against every mutant of it: `python -m tests.mutation.check data/order/order.py`.

Each mutant has a forked process, in which the changed module takes the place of the file, and the tests of
`TESTS` run up to the first that fails. Prints one JSON object a module: the mutants that survived, and how
many there were.

All 1,209 mutants took 11 minutes on two cores, and 11.5 of processor time; 7 of the minutes were those of the
work queue, whose mutants often wait for ever.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

import pytest

from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
# What decides order, draws, buckets, the steps of a rank, the caption of a sample, incidents, who does which
# unit and who is given up, claims, who owns a run, what may change when an output is continued, the roles of
# columns and of latents; and the tests that must notice a change of it.
TESTS = {
    "core/draws.py": ["tests/core/test_draws.py"],
    "core/faults/incidents.py": ["tests/core/faults/test_incident_rules.py"],
    "core/faults/spikes.py": [
        "tests/core/faults/test_spikes.py",
        "tests/core/faults/test_incident_rules.py",
    ],
    "core/permutations.py": ["tests/core/test_draws.py"],
    "core/philox.py": ["tests/core/test_draws.py"],
    "core/queue/dead_owners.py": ["tests/core/queue/test_dead_owners.py"],
    "core/queue/failures.py": [
        "tests/core/queue/test_work_queue.py",
        "tests/core/queue/test_rest_of_units.py",
        "tests/core/queue/test_lost_workers.py",
    ],
    "core/queue/leases.py": ["tests/core/queue/test_leases.py"],
    "core/queue/work_queue.py": [
        "tests/core/queue/test_work_queue.py",
        "tests/core/queue/test_rest_of_units.py",
        "tests/core/queue/test_lost_workers.py",
    ],
    "core/run/changes.py": ["tests/core/run/test_changes.py", "tests/core/run/test_claim.py"],
    "core/run/claim.py": ["tests/core/run/test_claim.py", "tests/core/run/test_claim_run.py"],
    "core/run/run_lock.py": ["tests/core/run/test_run_lock.py"],
    "data/order/bucket_rows.py": [
        "tests/data/order/test_order.py",
        "tests/data/order/test_stream.py",
        "tests/data/order/test_pieces.py",
    ],
    "data/order/buckets.py": ["tests/data/order/test_buckets.py"],
    "data/order/caption_choice.py": ["tests/data/order/test_caption_choice.py"],
    "data/order/order.py": [
        "tests/data/order/test_order.py",
        "tests/data/order/test_stream.py",
        "tests/data/order/test_pieces.py",
    ],
    "data/order/steps.py": ["tests/data/order/test_steps.py"],
    "data/order/stream.py": ["tests/data/order/test_stream.py", "tests/data/order/test_order.py"],
    "data/raw/annotations/roles.py": ["tests/data/raw/test_roles.py"],
    "tools/runs/latent_space.py": ["tests/tools/test_latent_space.py"],
}
# The functions of a module that are changed, where not all are: the others copy and compare files of runs,
# which tests hold that train.
ONLY = {"tools/runs/latent_space.py": ("describe", "_null_share")}
PACKAGES = ("core.", "data.", "models.", "tools.", "launch.", "tests.")
# What a mutant is given before it counts as one that hangs, and is noticed: multiples of what the tests take
# without a change, and so much at least, in all and of a core. The first is for those that wait for ever,
# which are few; it is large, since other programs may slow a mutant down, and must not seem to notice it.
WALL, CPU, LEAST_S, LEAST_CPU_S = 6, 3, 20.0, 5.0
# Imported once, before the forks: half of what a mutant would take otherwise.
LIBRARIES = ("einops", "hypothesis", "numpy", "omegaconf", "PIL.Image", "safetensors.numpy", "torch")
OPTIONS = [
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "_hypothesis_pytestplugin",
    "-m",
    "not full and not cuda and not multiprocess",
]
OPTIONS += ["--hypothesis-profile=first-failure", "-o", "addopts=--import-mode=importlib"]


class Limits(NamedTuple):
    """Seconds that the tests of a mutant may take.  cpu_s: of a core, which does not grow with the load."""

    wall_s: float
    cpu_s: float


class Changed(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Gives one module another syntax tree; it must not be imported yet."""

    def __init__(self, module: str, path: Path, tree: ast.Module) -> None:
        self._module, self._path, self._tree = module, path, tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._tree, str(self._path), "exec")

    def get_source(self, fullname: str) -> str:
        return ast.unparse(self._tree)


class Barred(importlib.abc.MetaPathFinder):
    """Refuses to import one module, and so whatever needs it."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == self._module:
            raise ImportError(fullname)
        return None


def survivors(name: str) -> tuple[list[str], int]:
    """Return the names of a module's mutants that its tests do not notice, and the number of all mutants."""
    path = ROOT / name
    source, tests = path.read_text(encoding="utf-8"), TESTS[name]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for library in LIBRARIES:
        importlib.import_module(library)
    with tempfile.NamedTemporaryFile("r") as imported:
        started = time.monotonic()
        unchanged, most = Mutant("nothing", ast.parse(source)), Limits(600.0, 600.0)
        if not _passes(name, unchanged, tests, most, Path(imported.name)):
            raise SystemExit(f"{name}: {' '.join(tests)} fail without a change")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        limits = Limits(
            max(LEAST_S, WALL * (time.monotonic() - started)),
            max(LEAST_CPU_S, CPU * (used.ru_utime + used.ru_stime)),
        )
        _import_others(_module(name), imported.read().split())
    every = [m for m in mutants(source) if name not in ONLY or m.name.partition(":")[0] in ONLY[name]]
    return [mutant.name for mutant in every if _passes(name, mutant, tests, limits)], len(every)


def _module(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".")


def _import_others(module: str, names: Sequence[str]) -> None:
    """Import what the tests import and does not need `module`, once for all mutants."""
    barred = Barred(module)
    sys.meta_path.insert(0, barred)
    for name in names:
        if name.startswith(PACKAGES) and not name.rpartition(".")[2].startswith(("test_", "conftest")):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    sys.meta_path.remove(barred)


def _passes(
    name: str, mutant: Mutant, tests: list[str], limits: Limits, imported: Path | None = None
) -> bool:
    """Return whether the tests pass with a mutant in place of the module; False past the limits."""
    child = os.fork()
    if child == 0:
        _run(name, mutant, tests, limits, imported)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what a test had started
    return status == 0


def _run(name: str, mutant: Mutant, tests: list[str], limits: Limits, imported: Path | None) -> None:
    """Run the tests in the child, and end with pytest's status; `imported` gets the names of all modules."""
    os.setpgid(0, 0)
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s)  # its signal ends the process
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_s)  # so does this one's, for loops without end
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if _module(name) in sys.modules:
        os._exit(99)
    sys.meta_path.insert(0, Changed(_module(name), ROOT / name, mutant.tree))
    status = int(pytest.main([*OPTIONS, *tests]))
    if imported:
        imported.write_text(" ".join(sys.modules))
    os._exit(status)


def main() -> None:
    """Check the modules that are named, each in a process that has imported nothing of another's."""
    os.chdir(ROOT)
    first, *others = sys.argv[1:]
    survived, count = survivors(first)
    print(json.dumps({"module": first, "mutants": count, "survivors": survived}), flush=True)
    if others:
        os.execv(sys.executable, [sys.executable, "-m", "tests.mutation.check", *others])


if __name__ == "__main__":
    main()
