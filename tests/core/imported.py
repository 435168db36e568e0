"""Import what ranks and jobs of tests need, in the process that they are forked from (`tests.core.ranks`)."""

import torch

from core.distributed import ranks
from core.engine.deepspeed_loading import load_deepspeed
from launch import cli
from tests.core import toy_run
from tools.sample import job as sample
from tools.train import job as train

__all__ = ["cli", "sample", "toy_run", "train"]

torch.set_num_threads(1)
load_deepspeed(torch.device("cpu"))
ranks.leave_with(torch.distributed.destroy_process_group)  # as in a process that has not loaded it
