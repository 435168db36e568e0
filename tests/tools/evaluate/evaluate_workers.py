"""Workers of evaluations, for tests that end some of them."""

from __future__ import annotations

from multiprocessing.process import BaseProcess

from core.faults import failpoints
from tests.forking import start_forked
from tools.evaluate import job as evaluate


def start_worker(chosen: evaluate.Config, faults: str = "") -> BaseProcess:
    """Start a worker of an evaluation; faults: as `failpoints.arm` takes them."""

    def work() -> None:
        failpoints.arm(faults)
        evaluate.run(chosen)

    return start_forked(work)
