"""The complete configuration of DeepSpeed, made from the engine's settings."""

from __future__ import annotations

from typing import Any

from core.engine.config import EngineConfig
from core.memory.state import bucket_numbers


def deepspeed_config(config: EngineConfig, numbers: int, ranks: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration; `numbers` is how many trainable numbers the network has.

    Keys DeepSpeed does not know are ignored in silence, and keys left out have defaults that act (clipping at
    1 among them), so every key here is one that 0.19 reads, and clipping is always written.
    """
    stage, bucket = config.stage, bucket_numbers(numbers)
    result: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # only scales DeepSpeed's own counters, which nothing reads
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # any number of backwards, then one step
        "gradient_clipping": config.gradient_clipping if stage > 0 else 0.0,  # stage 0 clips itself
        "zero_allow_untested_optimizer": True,  # MuonAdamW; it is tested here
        # Nothing here reads the timers, which would wait for the whole device in every forward and step.
        "timers": {"throughput": {"enabled": False}},
        "zero_optimization": {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket},
    }
    if stage == 1:
        result["zero_optimization"]["overlap_comm"] = False  # not allowed with unmanaged accumulation
    if stage == 3:  # `gathered_linear.py` stands in place of what it would give to the whole process
        result["zero_optimization"]["memory_efficient_linear"] = False
    if stage > 0 and config.precision == "bf16":
        result["bf16"] = {"enabled": True}
        result["communication_data_type"] = "fp32" if config.reduces_in_fp32(ranks) else "bf16"
    if stage > 1 and config.precision == "bf16":
        result["data_types"] = {"grad_accum_dtype": config.gradient_dtype}
    return result
