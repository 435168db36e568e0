"""Measure how busy a GPU's tensor cores are, by NVML; MFU, in contrast, counts the arithmetic a run asks for.

NVML's counters (GPM, from Hopper on) tell the share of cycles in which a tensor core worked, whatever for:
recomputed products and padding are in it, and slow clocks are not. Read through `pynvml` (nvidia-ml-py) where
it is installed; without it, on older GPUs and where counters are not permitted there is no number.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

ANY_TENSOR = 5  # NVML_GPM_METRIC_ANY_TENSOR_UTIL, in percent
UNKNOWN = 0.0  # no number: a step that trains keeps some core busy


class TensorActivity:
    """The tensor cores of one GPU, looked at now and then."""

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        self._before: Any = None
        if device.type != "cuda" or importlib.util.find_spec("pynvml") is None:
            return
        nvml: Any = importlib.import_module("pynvml")
        try:
            nvml.nvmlInit()
            name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._handle = nvml.nvmlDeviceGetHandleByUUID(name.encode())
            if nvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
                self._nvml = nvml
                self._before = self._sample()
        except nvml.NVMLError:
            self._nvml = None  # no driver, or a part of a GPU

    def share(self) -> float:
        """Return the share of cycles since the call before, or since the start; UNKNOWN without a number."""
        if self._nvml is None:
            return UNKNOWN
        nvml = self._nvml
        try:
            now = self._sample()
            asked = nvml.c_nvmlGpmMetricsGet_t()
            asked.version, asked.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, 1
            asked.sample1, asked.sample2 = self._before, now
            asked.metrics[0].metricId = ANY_TENSOR
            nvml.nvmlGpmMetricsGet(asked)
            nvml.nvmlGpmSampleFree(self._before)
        except nvml.NVMLError:
            self._nvml = None  # not permitted any more
            return UNKNOWN
        self._before = now
        return float(asked.metrics[0].value) / 100

    def _sample(self) -> Any:
        sample = self._nvml.nvmlGpmSampleAlloc()
        self._nvml.nvmlGpmSampleGet(self._handle, sample)
        return sample
