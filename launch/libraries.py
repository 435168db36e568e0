"""Set up numeric libraries through the environment, before a job imports them."""

from __future__ import annotations

import os

from core import environment


def limit_threads() -> None:
    """Have numeric libraries compute in as many threads as SLURM gave this task, unless a person said so.

    To be called before they are imported. Our launcher and torchrun do it for their ranks.
    """
    if environment.is_step():
        os.environ.setdefault("OMP_NUM_THREADS", str(environment.threads()))


def prepare_allocator() -> None:
    """Have torch's allocator on GPUs grow its segments, unless a person set it up.

    To be called before torch is imported. Segments of fixed size fragment where shapes differ: tensors of one
    bucket do not fit what those of another left.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its earlier name
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
