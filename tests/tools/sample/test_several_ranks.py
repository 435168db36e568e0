"""Sampling on ranks of which one is slow. Run: pytest tests/tools/sample/test_several_ranks.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.ranks import run_ranks
from tools.runs.samples import Samples

# A collective may last 2 s; rank 1 takes 4 s for its samples, and rank 0 as long to publish those of both.
PROGRAM = """
import sys, time
from pathlib import Path
import pytest
from core import environment
from core.diffusion.sampling import SamplerConfig
from core.distributed import ranks
from core.run.ending import end_with
from tests.tools.made_runs import make_run
from tools.sample import batches, job, publishing

def slow(work, rank):
    def slowed(*arguments, **named):
        result = work(*arguments, **named)
        time.sleep(4 if environment.rank() == rank else 0)
        return result
    return slowed

def main():
    folder = Path(sys.argv[1])
    ranks.start.__defaults__ = ("auto", 2.0)
    batches.make_latents, publishing.publish = slow(batches.make_latents, 1), slow(publishing.publish, 0)
    with pytest.MonkeyPatch.context() as patch:
        run = make_run(folder / f"run-{environment.rank()}", patch)
        fields = {"output": str(folder / "samples"), "count": 4, "batch": 2}
        job.run(job.Config(source=str(run), sampler=SamplerConfig(steps=1), **fields))

end_with(main)
"""


@pytest.mark.multiprocess
@pytest.mark.full
def test_ranks_that_are_done_wait_for_one_that_is_not(tmp_path: Path) -> None:
    run_ranks(2, "-c", PROGRAM, str(tmp_path))
    pixels, _ = Samples.read(tmp_path / "samples").load()
    assert len(pixels) == 4
