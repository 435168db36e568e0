"""The activity of tensor cores, by a stand-in for NVML, and by NVML where a GPU has it."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from core.metrics.tensor_activity import ANY_TENSOR, UNKNOWN, TensorActivity

CUDA = torch.device("cuda", 0)


class NVMLError(Exception):
    """As `pynvml` has it."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a library that counts up by a quarter between two samples."""
    library: Any = ModuleType("pynvml")
    library.__spec__ = importlib.machinery.ModuleSpec("pynvml", None)
    library.NVMLError, library.NVML_GPM_METRICS_GET_VERSION = NVMLError, 1
    library.samples, library.freed, library.supported = [], [], True
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByUUID = lambda name: name
    library.nvmlGpmQueryDeviceSupport = lambda handle: SimpleNamespace(isSupportedDevice=library.supported)
    library.nvmlGpmSampleAlloc = lambda: SimpleNamespace(at=None)

    def get(handle: bytes, sample: Any) -> None:
        assert handle == b"GPU-1-2-3"
        sample.at = len(library.samples)
        library.samples.append(sample)

    def measure(asked: Any) -> None:
        assert (asked.numMetrics, asked.metrics[0].metricId) == (1, ANY_TENSOR)
        asked.metrics[0].value = 25.0 * (asked.sample2.at - asked.sample1.at)

    library.nvmlGpmSampleGet, library.nvmlGpmMetricsGet = get, measure
    library.nvmlGpmSampleFree = library.freed.append
    library.c_nvmlGpmMetricsGet_t = lambda: SimpleNamespace(metrics=[SimpleNamespace()])
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2-3"))
    return library


def test_the_share_is_of_the_time_since_the_call_before(nvml: Any) -> None:
    activity = TensorActivity(CUDA)
    assert [activity.share(), activity.share()] == [0.25, 0.25]
    assert nvml.freed == nvml.samples[:2]


def test_no_number_where_nvml_has_none(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TensorActivity(torch.device("cpu")).share() == UNKNOWN
    nvml.supported = False
    assert TensorActivity(CUDA).share() == UNKNOWN
    nvml.supported = True
    activity = TensorActivity(CUDA)

    def refuse(asked: Any) -> None:
        raise NVMLError("not permitted")

    nvml.nvmlGpmMetricsGet = refuse
    assert [activity.share(), activity.share()] == [UNKNOWN, UNKNOWN]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert TensorActivity(CUDA).share() == UNKNOWN


@pytest.mark.cuda
def test_products_keep_tensor_cores_busy() -> None:
    activity = TensorActivity(torch.device("cuda", torch.cuda.current_device()))
    work = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    if activity.share() == UNKNOWN:
        pytest.skip("NVML gives no counters here")
    for _ in range(200):
        work = work @ work / 90
    torch.cuda.synchronize()
    assert 0.3 < activity.share() <= 1
