"""Import DeepSpeed for the device in use, without the parts of its start-up that are not needed."""

from __future__ import annotations

import logging
import os
import sys
import types
import warnings
from typing import Any

import torch

from core import garbage
from core.distributed import ranks


def load_deepspeed(device: torch.device) -> Any:
    """Return the package, set up so that it builds no C++, imports no inductor and prints nothing.

    May be called again. RuntimeError where it was imported for another kind of device, which it keeps.

    Imported here and not at the top of a module, since it picks its device while it is imported.
    """
    if "deepspeed" not in sys.modules:
        os.environ["DS_ACCELERATOR"] = device.type
        with garbage.none_expected():
            import deepspeed
    import deepspeed
    import deepspeed.ops

    if (other := deepspeed.accelerator.get_accelerator().device_name()) != device.type:
        raise RuntimeError(f"DeepSpeed was imported for {other}, and this process computes on {device.type}")
    # On CPU it would build a shared-memory reduce with g++ at the first group (45 s); with nothing declared
    # compatible it neither probes for compilers nor builds.
    deepspeed.ops.__compatible_ops__ = {}
    _without_muon()
    deepspeed.utils.logger.setLevel(logging.ERROR)
    # torch 2.13 renames collectives that DeepSpeed 0.19 calls by their old names, once per call site.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    ranks.leave_with(_leave)
    return deepspeed


def _leave() -> None:
    """Undo what would outlive the world: copies of process groups, which the next one would meet."""
    import deepspeed

    deepspeed.comm.destroy_process_group()


def _without_muon() -> None:
    """Stand in for Muon, which DeepSpeed imports at every start and step to ask whether an AdamW is one.

    The real module compiles kernels at import and so pulls in all of inductor: a second of every start.
    """
    optimizer = types.ModuleType("deepspeed.runtime.zero.muon.muon_optimizer")
    optimizer.MuonWithAuxAdam = type("MuonWithAuxAdam", (), {})  # type: ignore[attr-defined]
    update = types.ModuleType("deepspeed.runtime.zero.muon.original_muon")
    update.muon_update = None  # type: ignore[attr-defined]
    for module in (optimizer, update):
        sys.modules.setdefault(module.__name__, module)
