"""Ranks that start, train a step and print, from rank 0, what the store then has: name and bytes of each key.

start: FOLDER STAGE, as `toy_run.engine_fields` takes it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.distributed import ranks, waiting
from core.run.ending import end_with
from tests.core.toy_run import toy_trainer


def start(words: Sequence[str]) -> None:
    """Train in the folder that is named."""

    def main() -> int:
        torch.set_num_threads(1)
        warnings.simplefilter("error", FutureWarning)  # a thousand ranks would each print it
        world = ranks.start("cpu", 60)
        toy_trainer(Path(words[0]), world, steps=1, zero_stage=words[1]).fit()
        ranks.barrier()
        if world.rank == 0:
            store: Any = waiting.store()
            while hasattr(store, "underlying_store"):  # each puts a prefix before names
                store = store.underlying_store
            print(json.dumps({name: len(store.get(name)) for name in store.list_keys()}))
        ranks.stop(world)
        return 0

    end_with(main)
