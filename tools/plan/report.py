"""A plan as lines for a person."""

from __future__ import annotations

from typing import Any

from core.metrics.devices import GB
from core.progress import duration
from tools.plan.settings_table import lines_of_settings
from tools.plan.shares import lines_of_shares
from tools.plan.step_time import HOUR_S


def lines_of(found: dict[str, Any]) -> list[str]:
    """Return the lines that tell a plan."""
    device, step, run = found["device"], found["step"], found["run"]
    lines = [f"model: {found['parameters']:,} parameters", *map(_bucket, found["buckets"])]
    if len(found["buckets"]) > 1:
        lines.append(f"largest: a sample of {found['largest_bucket']} takes most memory")
    lines += [
        f"step: {step['samples']:.0f} samples, {step['flops']:.3e} FLOPs on {found['ranks']} GPUs together",
        f"run: {run['steps']:,} steps, {run['samples']:,.0f} samples, {run['epochs']:.3g} epochs",
        f"disk: cache {_size(found['cache_bytes'])}, checkpoint {_size(found['checkpoint_bytes'])} every "
        f"{found['save_every']:,} steps",
    ]
    if "encode_gpu_hours" in found:
        lines.append(f"encoding: {found['encode_gpu_hours']:.3g} GPU-hours at the stated rate")
    configured, best = found["configured"], found["recommended"]
    lines += ["", *lines_of_settings(found), ""]
    lines += [
        f"as configured: {_words(configured)}{_settled(found)}",
        _parts(configured),
        *lines_of_shares(found["ranks_have"], found["buckets"]),
    ]
    if device is None:
        lines.append("no GPU is known here: plan.device=H100 says on which one it is to run, and gives times")
        return [*lines, *_times(configured)]
    if best is None:
        return lines  # the error says what is missing
    return [
        *lines,
        f"recommended: {_words(best)}: the least recomputation that fits, then the least sharding",
        _parts(best),
        *_times(best),
        f"{device['name']}: {device['memory_bytes'] / GB:g} GB, {device['bf16_tflops']:g} TFLOP/s in bf16 "
        f"({device['source']})",
    ]


def _settled(found: dict[str, Any]) -> str:
    """Say what `engine.zero_stage=auto` stands for, and how that was found."""
    if found["zero_stage"] != "auto":
        return ""
    stage, one = found["configured"]["zero_stage"], found["ranks"] == 1
    if found["device"] is None and not one:
        return "; engine.zero_stage=auto takes the least that fits, which plan.device=H100 or another decides"
    how = "one rank has nothing to share out" if one else "the least that fits"
    if not found["configured"]["fits"]:
        how = "which takes least, and does not fit"
    return f"; engine.zero_stage=auto is {stage} here, {how}"


def _parts(setting: dict[str, Any]) -> str:
    """Say of what the memory of a rank is made up."""
    shown = ", ".join(f"{name} {_size(count)}" for name, count in setting["parts"].items())
    update, activations = setting["update"], setting["activations"]
    instead = f", or {_size(update)} that an update takes in their place" if update else ""
    return f"  of a rank: {shown}, activations {_size(activations)}{instead}"


def _times(setting: dict[str, Any]) -> list[str]:
    """Say what a step and the run take, what that rests on, and what is missing; [] where it is not known."""
    if "step_s" not in setting:
        return []
    parts = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in setting["step_parts_s"].items())
    lines = [
        f"time: {setting['step_s']:.3g} s a step ({parts}), {_long(setting['days'])}, "
        f"{setting['gpu_hours']:,.4g} GPU-hours{_cost(setting)}",
        f"which rests on {setting['basis']}; left out: {'; '.join(setting['left_out'])}",
    ]
    if setting["sent_bytes_per_step"]:
        lines.append(f"traffic: {_size(setting['sent_bytes_per_step'])} sent by a rank in a step")
    if setting["checkpoint_bytes_per_s"]:
        lines.append(f"checkpoints: {_size(setting['checkpoint_bytes_per_s'])}/s to disk on average")
    return lines


def _long(days: float) -> str:
    return f"{days:.3g} days" if days >= 2 else duration(days * 24 * HOUR_S)


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _bucket(bucket: dict[str, Any]) -> str:
    parts = sorted(bucket["flops_by_part"].items(), key=lambda item: -item[1])
    whole = bucket["flops_of_a_sample"]
    shown = ", ".join(f"{name} {flops / whole:.0%}" for name, flops in parts if flops / whole >= 0.005)
    return (
        f"{bucket['name']}: {bucket['samples']:,} samples, {bucket['tokens']:,} tokens, groups of "
        f"{bucket['group']} ({bucket['share_of_groups']:.0%} of them), {bucket['of_a_rank']} a rank; "
        f"{bucket['multiply_adds_of_a_sample']:.3e} multiply-adds forward, {whole:.3e} FLOPs of training a "
        f"sample ({shown})"
    )


def _words(setting: dict[str, Any]) -> str:
    sizes = ", ".join(map(str, setting["micro_batches"]))
    return (
        f"zero_stage={setting['zero_stage']}{_sharing(setting['shard_ranks'])} "
        f"activation_checkpointing={setting['activation_checkpointing']}"
        f"{_shared(setting['sequence_parallel'])}, "
        f"{sizes} sample{'' if sizes == '1' else 's'} at once, {setting['bytes'] / GB:.3g} GB of a rank"
    )


def _sharing(ranks: int) -> str:
    return f" shard_ranks={ranks}" if ranks else ""


def _shared(degree: int) -> str:
    return f" sequence_parallel={degree}" if degree > 1 else ""


def _cost(best: dict[str, Any]) -> str:
    energy = f", at most {best['energy_kwh']:,.4g} kWh" if best["energy_kwh"] is not None else ""
    return energy + (f", price {best['price']:,.4g}" if best["price"] is not None else "")


def _size(count: float) -> str:
    return f"{count / GB:,.0f} GB" if count >= 1000 * GB else f"{count / GB:.3g} GB"
