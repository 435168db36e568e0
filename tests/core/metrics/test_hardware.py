"""Run: pytest tests/core/metrics/test_hardware.py"""

from __future__ import annotations

import pytest
import torch

from core.metrics.hardware import (
    allocation_retries,
    find_peaks,
    measured_tflops,
    memory_gb,
    peak_tflops,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA H200 NVL", 835.0),
        ("NVIDIA B300 SXM6 AC", 2250.0),
        ("NVIDIA GB300", 2500.0),
        ("AMD Instinct MI300X", 1307.4),
        ("AMD Instinct MI300X VF", 1307.4),
        ("AMD Instinct MI325X", 1307.4),
        ("AMD Instinct MI355X", 2500.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA GB200", 2500.0),
    ],
)
def test_known_devices_have_their_data_sheets_peak(name: str, peak: float) -> None:
    assert peak_tflops(name) == peak


@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        "NVIDIA A10",
        "NVIDIA A1000",
        "NVIDIA H800",
        "NVIDIA H200 MIG 1g.18gb",
        "H200",
        "NVIDIA RTX 4090",
    ],
)
def test_an_unknown_device_is_left_out(name: str) -> None:
    assert peak_tflops(name) is None


def test_peaks_are_those_of_all_devices() -> None:
    assert find_peaks(CPU, 4, measure=False) == {}
    peaks = find_peaks(CPU, 4, measure=True)
    assert list(peaks) == ["mfu_of_matmul"]


def test_a_measured_peak_is_that_of_a_product() -> None:
    assert 1e-5 < measured_tflops(CPU, size=64, seconds=0.01) < 100


def test_memory_is_what_the_process_holds() -> None:
    before = memory_gb(CPU)
    block = torch.ones(100_000_000, dtype=torch.uint8) if before < 0.5 else None
    assert 0.02 < before <= memory_gb(CPU) < 1000
    assert allocation_retries(CPU) == 0
    del block
