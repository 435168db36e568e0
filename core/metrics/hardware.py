"""Peak speed of the device, and memory in use by the process."""

from __future__ import annotations

import resource
import sys
import time

import torch

from core.metrics.devices import by_driver


def device_name(device: torch.device) -> str:
    """Return the driver's name of the device; "cpu" for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_tflops(name: str) -> float | None:
    """Return a device's bf16 TFLOP/s from its data sheet; None for an unknown one, or a part of one (MIG)."""
    device = by_driver(name)
    return device.tflops if device else None


def measured_tflops(device: torch.device, size: int = 0, seconds: float = 0.3) -> float:
    """Measure the best bf16 TFLOP/s over products of two square matrices, for about `seconds`.

    size: 0 takes 8192 on CUDA and 1024 elsewhere.
    """
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best, until = 0.0, time.perf_counter() + seconds
    a @ b  # the first call sets the library up
    while best == 0.0 or time.perf_counter() < until:
        wait(device)
        started = time.perf_counter()
        a @ b
        wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started) / 1e12)
    return best


def find_peaks(device: torch.device, devices: int, measure: bool) -> dict[str, float]:
    """Return the TFLOP/s of all `devices` together, to which a run's arithmetic is related.

    mfu: the data sheet's, where the device is known.  mfu_of_matmul: what a product reaches, measured now.
    """
    peaks = {"mfu": peak_tflops(device_name(device)), "mfu_of_matmul": None}
    if measure:
        peaks["mfu_of_matmul"] = measured_tflops(device)
    return {name: peak * devices for name, peak in peaks.items() if peak}


def memory_gb(device: torch.device) -> float:
    """Return the peak memory of the process so far, in 10^9 bytes: reserved on CUDA, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def allocation_retries(device: torch.device) -> int:
    """Return how often CUDA's allocator had to free memory and try again; it slows a run down."""
    return int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0)) if device.type == "cuda" else 0


def wait(device: torch.device) -> None:
    """Wait until the device has done all queued work; the CPU never has any."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
