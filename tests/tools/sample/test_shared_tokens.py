"""Ranks that share the tokens of every sample make what one makes. Run: pytest FILE"""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.core.ranks import run_ranks

PROGRAM = """
import sys
from pathlib import Path
import pytest
from core import environment
from core.diffusion.sampling import SamplerConfig
from core.run.ending import end_with
from tests.tools.made_runs import make_run
from tools.sample import job
from tools.sample.config import FilesConfig

def main():
    folder, together = Path(sys.argv[1]), environment.place().size
    with pytest.MonkeyPatch.context() as patch:
        run = make_run(folder / "run" / str(environment.rank()), patch)
        fields = {
            "output": str(folder / str(together)),
            "count": 3,
            "batch": 2,
            "frames": 9,
            "trajectory": True,
            "overwrite": True,
            "device": "cpu",
            "sequence_parallel": together,
            "files": FilesConfig(kind="ffv1", latents=True),
        }
        job.run(job.Config(source=str(run), sampler=SamplerConfig(steps=3, guidance=2.0), **fields))

end_with(main)
"""


@pytest.mark.multiprocess
@pytest.mark.full
def test_two_ranks_make_the_clips_of_one(tmp_path: Path) -> None:
    for count in (1, 2):
        run_ranks(count, "-c", PROGRAM, str(tmp_path))
    assert (tmp_path / "2" / "trajectory.png").is_file()
    for number in range(3):
        name = f"{number:06d}.safetensors"
        one, two = (load_file(tmp_path / count / name)["latents"] for count in ("1", "2"))
        assert float((one - two).abs().max()) <= 1e-5
        assert float(one.std()) > 0.1
