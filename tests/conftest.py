"""Settings for all tests: one thread each, the right accelerator, the order of files."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; processes that a test starts inherit it
os.environ.setdefault("LONGTAKE_CACHE", os.path.join(tempfile.gettempdir(), f"longtake-tests-{os.getuid()}"))

import hypothesis
import pytest
import torch

from core.run.signals import SIGNALS
from tests.slurm_cluster import missing

torch.set_num_threads(1)
gc.disable()  # until all tests are collected: it would look again and again at half a million objects

# Time limits on single examples fail on a busy machine and find nothing. The same examples every time, so
# that a change is judged by what it changed; `make test-full` looks for new ones.
hypothesis.settings.register_profile("exploring", deadline=None)
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
# For `tests/mutation`, which asks whether a test fails, not for the smallest example.
first = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
hypothesis.settings.register_profile("first-failure", deadline=None, derandomize=True, phases=first)
hypothesis.settings.load_profile("repeatable")


_LONG = ("slurm", "multiprocess")


@pytest.fixture(autouse=True)
def _handlers_as_they_were() -> Iterator[None]:
    """Restore the handlers of signals: a run that ends early leaves them ignored for good."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs unless `cuda` tests are asked for: the others are about the CPU, on every machine."""
    asked = config.option.markexpr
    if "cuda" not in asked or "not cuda" in asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before anything asks for them; processes inherit it
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Under nohup a terminal's end is ignored, and every process that a test starts would inherit that.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first whose tests start processes, so that workers end with short tests, and together.

    Skip `cuda` tests without a GPU, `heif` tests without pillow-heif, and `slurm` tests without SLURM.
    """
    for item in items:
        if item.get_closest_marker("slurm"):
            lacks = missing()
            if lacks and os.environ.get("LONGTAKE_SLURM") == "required":
                raise pytest.UsageError(f"LONGTAKE_SLURM=required, and this machine lacks {', '.join(lacks)}")
            if lacks:
                item.add_marker(pytest.mark.skip(reason=f"needs SLURM; lacking: {', '.join(lacks)}"))
        if item.get_closest_marker("heif") and find_spec("pillow_heif") is None:
            if os.environ.get("LONGTAKE_HEIF") == "required":
                raise pytest.UsageError("LONGTAKE_HEIF=required, and pillow-heif is not installed")
            item.add_marker(pytest.mark.skip(reason="optional: pip install longtake[heif]"))
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and pytest -m cuda"))
    long = {item.path for item in items if any(item.get_closest_marker(name) for name in _LONG)}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    """Exempt what exists now from garbage collection: each full one would take half a second for it."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how to run one test again."""
    failed = [*terminalreporter.getreports("failed"), *terminalreporter.getreports("error")]
    if failed:
        terminalreporter.write_line(f"To run one test again: .venv/bin/pytest '{failed[0].nodeid}'")


@pytest.fixture(autouse=True)
def keeps_its_priority() -> Iterator[None]:
    """Refuse a test that leaves this process another scheduling policy: real-time ones starve all others."""
    before = os.sched_getscheduler(0)
    yield
    assert os.sched_getscheduler(0) == before
