"""A plan as lines for a person."""

from __future__ import annotations

from typing import Any

from core.metrics.devices import GB


def lines_of(found: dict[str, Any], mfu: float = 0.0) -> list[str]:
    """Return the lines that tell a plan.  mfu: the share of the peak that times rest on; 0 is the whole."""
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
    lines += ["", *_table(found["settings"], has_limit=device is not None), ""]
    lines.append(f"as configured: {_words(found['configured'])}")
    if device is None:
        lines.append("no GPU is known here: plan.device=H100 says on which one it is to run, and gives times")
        return lines
    if found["recommended"] is None:
        return lines  # the error says what is missing
    how = f"{mfu:.0%} of the data sheet's peak" if mfu else "the data sheet's peak: no run is faster"
    best = found["recommended"]
    lines += [
        f"recommended: {_words(best)}: the least recomputation that fits, then the least sharding",
        f"time at {how}: {best['step_s']:.3g} s a step, {best['days']:.3g} days, "
        f"{best['gpu_hours']:,.4g} GPU-hours{_cost(best)}",
        f"traffic: {_size(best['sent_bytes_per_step'])} sent by a rank in a step{_exposed(best)}",
        f"{device['name']}: {device['memory_bytes'] / GB:g} GB, {device['bf16_tflops']:g} TFLOP/s in bf16 "
        f"({device['source']})",
    ]
    return lines


def _bucket(bucket: dict[str, Any]) -> str:
    parts = sorted(bucket["flops_by_part"].items(), key=lambda item: -item[1])
    whole = bucket["flops_of_a_sample"]
    shown = ", ".join(f"{name} {flops / whole:.0%}" for name, flops in parts if flops / whole >= 0.005)
    return (
        f"{bucket['name']}: {bucket['samples']:,} samples, {bucket['tokens']:,} tokens, groups of "
        f"{bucket['group']} ({bucket['share_of_groups']:.0%} of them), {bucket['of_a_rank']} a rank; "
        f"{whole:.3e} FLOPs a sample ({shown})"
    )


def _table(settings: list[dict[str, Any]], *, has_limit: bool) -> list[str]:
    """Lay out the memory of a rank for each stage and policy."""
    head = ("stage", "checkpointing", "state GB", "activations GB", "all GB", "samples at once", "fits")
    rows = [head]
    for each in settings:
        state = sum(each["parts"].values())
        sizes = ", ".join(map(str, each["micro_batches"]))
        shown = (state / GB, each["activations"] / GB, each["bytes"] / GB)
        fits = ("yes" if each["fits"] else "no") if has_limit else ""
        policy = each["activation_checkpointing"]
        rows.append((str(each["zero_stage"]), policy, *(f"{size:.3g}" for size in shown), sizes, fits))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _words(setting: dict[str, Any]) -> str:
    sizes = ", ".join(map(str, setting["micro_batches"]))
    return (
        f"zero_stage={setting['zero_stage']} activation_checkpointing={setting['activation_checkpointing']}, "
        f"{sizes} samples at once, {setting['bytes'] / GB:.3g} GB of a rank"
    )


def _cost(best: dict[str, Any]) -> str:
    energy = f", at most {best['energy_kwh']:,.4g} kWh" if best["energy_kwh"] is not None else ""
    return energy + (f", price {best['price']:,.4g}" if best["price"] is not None else "")


def _exposed(best: dict[str, Any]) -> str:
    if best["traffic_s"] is None:
        return "; plan.network_gb_s says how long that takes between nodes"
    return f", {1000 * best['traffic_s']:.3g} ms where nothing of it is hidden"


def _size(count: float) -> str:
    return f"{count / GB:.3g} GB"
