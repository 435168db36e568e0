"""Run: pytest tests/core/optim/test_groups.py"""

from __future__ import annotations

import pytest

from core.errors import UserError
from core.optim.groups import OptimizerConfig, learning_rate, parameter_groups, require_rise
from tests.core.toy_run import ToyModel


def test_decay_only_on_matrices_that_are_not_embeddings() -> None:
    decay, free = parameter_groups(ToyModel(), OptimizerConfig(weight_decay=0.1))
    assert decay["names"] == ["first.weight", "second.weight"]
    assert free["names"] == ["embedding.weight", "first.bias", "second.bias"]
    assert (decay["weight_decay"], free["weight_decay"]) == (0.1, 0.0)


def test_a_network_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(UserError, match="no trainable parameter"):
        parameter_groups(ToyModel().requires_grad_(False), OptimizerConfig())


def test_warm_up_then_constant() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=4)
    assert [learning_rate(config, step, 100) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_run_that_ends_within_its_warm_up_is_refused() -> None:
    require_rise(OptimizerConfig(warmup_steps=99), 100)
    with pytest.raises(UserError, match=r"^warmup_steps=100: expected below trainer.steps=100"):
        require_rise(OptimizerConfig(warmup_steps=100), 100)


def test_warm_up_then_cosine() -> None:
    config = OptimizerConfig(lr=2.0, warmup_steps=10, schedule="cosine", final_lr_fraction=0.1)
    assert learning_rate(config, 10, 110) == 2.0
    assert learning_rate(config, 60, 110) == pytest.approx(2.0 * 0.55)
    assert learning_rate(config, 110, 110) == pytest.approx(0.2)
    assert learning_rate(config, 500, 110) == pytest.approx(0.2)


def test_moment_decays_outside_the_range_are_refused() -> None:
    with pytest.raises(UserError, match="betas"):
        OptimizerConfig(betas=(0.9, 1.0))
