"""The least script that trains one step with DeepSpeed, the reference of `bench` for this project's start.

`python -m tools.bench.bare_start PRESET FRAMES,HEIGHT,WIDTH BATCH` prints one line when the step is done.
DeepSpeed is loaded as we load it: without its C++ build, its Muon and the garbage collector, or it would be
slower.
"""

import sys
from types import SimpleNamespace

import einops  # noqa: F401
import numpy  # noqa: F401
import safetensors.torch  # noqa: F401
import torch
import torch.distributed as dist

import core.config.loading  # noqa: F401
from core import environment
from core.batch import Condition
from core.engine.config import EngineConfig
from core.engine.zero.deepspeed_config import deepspeed_config
from core.engine.zero.deepspeed_loading import load_deepspeed
from models.denoisers.dit import DiT, DiTConfig


def main() -> None:
    """Start, and take the step."""
    preset, grid, batch = sys.argv[1], tuple(map(int, sys.argv[2].split(","))), int(sys.argv[3])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    environment.local_rank_for_libraries()
    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=store, rank=0, world_size=1)
    config = DiTConfig.presets[preset]
    model = DiT(config).to(device)
    engine = load_deepspeed(device).initialize(
        args=SimpleNamespace(device_rank=0),
        model=model,
        model_parameters=list(model.parameters()),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, fused=True),
        config=deepspeed_config(EngineConfig(), sum(p.numel() for p in model.parameters()), 1),
        dist_init_required=False,
    )[0]
    x = torch.randn(batch, config.input_channels, *grid, device=device)
    time = torch.rand(batch, device=device)
    label = torch.zeros(batch, dtype=torch.int64, device=device)
    engine.backward(engine(x, time, Condition(label=label)).float().square().mean())
    engine.step()
    print("step", flush=True)


if __name__ == "__main__":
    main()
