"""The benchmark of a step runs what it reports. Run: pytest tests/tools/bench/test_step.py"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.errors import UserError
from launch import cli
from models.denoisers.dit import DiTConfig
from models.denoisers.network import train_flops
from tools.bench import public_dits, step

TINY = ("rounds=1", "network=DiT-S/8", "batch=1", "compiled=false", "floors=false")


def test_a_tiny_run_compares_ours_with_plain_ones_and_bare_products(tmp_path):
    assert cli.main(["bench", "step", f"output={tmp_path}", *TINY]) == 0
    (row,) = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert {"longtake", step.FP32, step.AUTOCAST, step.PRODUCTS} <= set(row["timings"])
    assert [floor["what"] for floor in row["floors"]] == [
        f"times {step.FP32}",
        f"times {step.AUTOCAST}",
        "of matmuls alone",
    ]


def test_bare_products_are_those_of_the_network():
    network, shape = DiTConfig(width=128, depth=3, heads=2), (2, 4, 1, 32, 32)
    with FlopCounterMode(display=False) as counter:
        step.products(network, shape, torch.device("cpu"))()
    assert counter.get_total_flops() == pytest.approx(2 * train_flops(network, shape[2:]), rel=0.02)


def test_the_batch_is_what_fits_the_device():
    network, shape = DiTConfig(width=32, depth=2, heads=2), (4, 1, 32, 32)
    sizes = [step.fitting(network, shape, int(free * 2**20), 256) for free in (1, 40, 80, 160, 10**6)]
    assert sizes[0] == 1
    assert sizes[-1] == 256
    assert sizes == sorted(sizes)
    assert sizes[3] in (2 * sizes[2], 4 * sizes[2])
    assert all(size & (size - 1) == 0 for size in sizes)


def test_an_error_in_one_gradient_is_seen():
    truth = torch.ones(3), [torch.ones(4), torch.ones(2, 2)]
    assert step.relative_error(truth, truth) == 0
    wrong = torch.ones(3), [torch.ones(4), torch.tensor([[1.0, 1.0], [1.0, 3.0]])]
    assert step.relative_error(wrong, truth) == pytest.approx((4 / 8) ** 0.5)
    assert step.relative_error((torch.zeros(3), truth[1]), truth) == 1


def test_a_folder_without_the_peer_is_refused(tmp_path):
    network = replace(DiTConfig.presets["DiT-S/8"], preset="DiT-S/8")
    with pytest.raises(UserError, match=r"peer=.*expected a checkout of facebookresearch/DiT"):
        public_dits.find(network, (1, 4, 1, 32, 32), str(tmp_path))
