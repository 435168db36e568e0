"""GPUs by their data sheets: what a plan and a run's MFU relate to."""

from __future__ import annotations

import re
from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True)
class Device:
    """One kind of GPU.

    pattern: of the names that drivers give it, as a regular expression; '' where none is known.
    tflops: dense bf16 matrix products, in TFLOP/s.  memory: bytes; sheets count in 10^9, and drivers show
    somewhat more.  bandwidth: of its memory, in bytes a second.  link: of its connection to the other GPUs of
    a node, in bytes a second and direction.  watts: the largest board power.  0 stands for what the sheet
    does not say.
    """

    name: str
    pattern: str
    tflops: float
    memory: int
    bandwidth: float
    link: float
    watts: float
    source: str


def _device(name: str, pattern: str, *numbers: float, source: str) -> Device:
    tflops, memory_gb, bandwidth_tb, link_gb, watts = numbers
    return Device(
        name, pattern, tflops, int(memory_gb * GB), bandwidth_tb * 1e12, link_gb * 1e9, watts, source
    )


# Dense figures: half of what sheets give "with sparsity". Links: half of the sum of both directions.
DEVICES = (
    _device(
        *("A100-40GB", r"NVIDIA A100-(SXM4|PCIE)-40GB", 312, 40, 1.555, 300, 400),
        source="NVIDIA A100 data sheet",
    ),
    _device(
        *("A100", r"NVIDIA A100[- ](SXM4|PCIE|80GB PCIe).*", 312, 80, 2.039, 300, 400),
        source="NVIDIA A100 data sheet",
    ),
    _device(
        *("H100", r"NVIDIA H100 (80GB|64GB|96GB) HBM3.*", 989, 80, 3.35, 450, 700),
        source="NVIDIA H100 data sheet, SXM",
    ),
    _device(
        *("H100-PCIe", r"NVIDIA H100 PCIe", 756, 80, 2.0, 300, 350), source="NVIDIA H100 data sheet, PCIe"
    ),
    _device(*("H100-NVL", r"NVIDIA H100 NVL", 835, 94, 3.9, 300, 400), source="NVIDIA H100 data sheet, NVL"),
    _device(*("H200", r"NVIDIA H200", 989, 141, 4.8, 450, 700), source="NVIDIA H200 data sheet, SXM"),
    _device(*("H200-NVL", r"NVIDIA H200 NVL", 835, 141, 4.8, 450, 600), source="NVIDIA H200 data sheet, NVL"),
    _device(*("GH200", r"NVIDIA GH200 .*", 989, 96, 4.0, 450, 1000), source="NVIDIA GH200 data sheet"),
    _device(*("B200", r"NVIDIA B200", 2250, 180, 7.7, 900, 1000), source="NVIDIA DGX B200 data sheet"),
    _device(*("GB200", r"NVIDIA GB200", 2500, 186, 8.0, 900, 1200), source="NVIDIA GB200 NVL72 data sheet"),
    _device(*("B300", r"NVIDIA B300.*", 2250, 288, 8.0, 900, 0), source="NVIDIA HGX B300 data sheet"),
    _device(*("GB300", r"NVIDIA GB300.*", 2500, 288, 8.0, 900, 0), source="NVIDIA GB300 NVL72 data sheet"),
    _device(
        *("MI300X", r"AMD Instinct MI300X( OAM| VF)?", 1307.4, 192, 5.3, 448, 750),
        source="AMD Instinct MI300X data sheet",
    ),
    _device(
        *("MI325X", r"AMD Instinct MI325X( OAM| VF)?", 1307.4, 256, 6.0, 448, 1000),
        source="AMD Instinct MI325X data sheet",
    ),
    _device(
        *("MI355X", r"AMD Instinct MI355X( OAM| VF)?", 2500, 288, 8.0, 0, 1400),
        source="AMD Instinct MI355X data sheet",
    ),
)
NAMES = tuple(device.name for device in DEVICES)


def by_name(name: str) -> Device | None:
    """Return the device of that name in this table, in any case of its letters."""
    return next((device for device in DEVICES if device.name.lower() == name.lower()), None)


def by_driver(name: str) -> Device | None:
    """Return the device that a driver calls so; None for an unknown one, or a part of one (MIG)."""
    if "MIG" in name:
        return None
    found = (device for device in DEVICES if device.pattern and re.fullmatch(device.pattern, name))
    return next(found, None)
