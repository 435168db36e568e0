"""Import what ranks of tests need, in the process that they are forked from (`tests.core.ranks`)."""

import torch

from core.distributed import ranks
from core.engine.zero.deepspeed_loading import load_deepspeed
from launch import jobs
from tests.core import toy_run

__all__ = ["toy_run"]

torch.set_num_threads(1)
for job in jobs.JOBS:
    if job.on_ranks:
        job.load()
load_deepspeed(torch.device("cpu"))
ranks.leave_with(torch.distributed.destroy_process_group)  # as in a process that has not loaded it
