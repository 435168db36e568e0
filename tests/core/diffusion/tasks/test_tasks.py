"""What samples keep, begin from, and are made of in windows. Run: pytest tests/core/diffusion/tasks"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.generating import sample
from core.diffusion.paths.config import ScheduleConfig, path_record
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.sampling import SamplerConfig
from core.diffusion.tasks.between import between
from core.diffusion.tasks.task import Task
from core.diffusion.tasks.windows import Windows
from core.draws import Draws
from core.errors import UserError

SHAPE = (2, 3, 5, 4, 4)


def draws() -> Draws:
    return Draws(3, 0, torch.arange(2), torch.zeros(2, dtype=torch.int64))


def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """Answer by the neighbourhood, so that what is kept reaches what is made."""
    return 0.3 * x + 0.5 * x.roll((1, 1), (-2, 2)) + time.reshape(-1, 1, 1, 1, 1).to(x.dtype) * 1e-3


def made(task: Task, path: PathName = "rectified_flow", **sampler: object) -> Tensor:
    config = SamplerConfig(**{"steps": 6, **sampler})  # type: ignore[arg-type]
    prediction = "flow" if path == "rectified_flow" else "v"
    where = make_path(path_record(path, ScheduleConfig()))
    return sample(model, SHAPE, Condition(), config, where, prediction, draws(), task=task)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m", "midpoint", "ddim"])
@pytest.mark.parametrize("path", ["rectified_flow", "ddpm_cosine"])
def test_what_is_kept_stays_and_reaches_the_rest(solver: str, path: PathName) -> None:
    known, kept = torch.randn(SHAPE), torch.zeros(2, 1, *SHAPE[2:])
    kept[:, :, :2] = 1
    kept[:, :, 2, :2] = 1
    found, free = made(Task(known=known, kept=kept), path, solver=solver), made(Task(), path, solver=solver)
    everywhere = kept.expand(SHAPE) > 0
    assert torch.equal(found[everywhere], known[everywhere])
    assert not torch.allclose(found[~everywhere], free[~everywhere])
    other = made(Task(known=known + 1, kept=kept), path, solver=solver)
    assert not torch.allclose(other[~everywhere], found[~everywhere])


def test_nothing_kept_is_as_without() -> None:
    """To rounding: estimates with known parts are sums of data and noise, others of states and outputs."""
    nothing = Task(known=torch.randn(SHAPE), kept=torch.zeros(2, 1, *SHAPE[2:]))
    torch.testing.assert_close(made(nothing), made(Task()), rtol=1e-6, atol=2e-6)


def test_a_start_from_latents_is_nearer_to_them_the_earlier_it_is() -> None:
    known = torch.randn(SHAPE)
    far = [(made(Task(known=known, start_time=time)) - known).norm() for time in (0.02, 0.3, 0.9)]
    assert far[0] < far[1] < far[2]
    assert far[0] < 0.05 * known.norm()


def test_a_start_from_latents_at_the_end_of_the_path_is_one_of_noise() -> None:
    assert torch.allclose(made(Task(known=torch.randn(SHAPE), start_time=1.0)), made(Task()))


def test_windows_that_hold_all_frames_change_nothing() -> None:
    assert torch.equal(made(Task(windows=Windows(5, 2))), made(Task()))


def test_windows_of_a_network_without_time_are_the_whole() -> None:
    """A network that looks at single frames gives the same in any windows."""
    x, time = torch.randn(2, 3, 9, 4, 4), torch.tensor([0.2, 0.7])

    def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return x.square().roll(1, -1) * time.reshape(-1, 1, 1, 1, 1)

    found = Windows(3, 2).over(network)(x, time, Condition())
    assert torch.allclose(found, network(x, time, Condition()), atol=1e-6)


@pytest.mark.parametrize(("length", "overlap", "frames"), [(3, 1, 5), (4, 2, 11), (5, 4, 6), (8, 3, 30)])
def test_windows_cover_each_frame_with_weight_one(length: int, overlap: int, frames: int) -> None:
    windows = Windows(length, overlap)
    weights = windows.weights(frames)
    assert torch.allclose(weights.sum(0), torch.ones(frames))
    assert all(int((row > 0).sum()) == length for row in weights)
    starts = windows.starts(frames)
    assert (starts[0], starts[-1] + length) == (0, frames)
    assert all(b - a <= length - overlap for a, b in pairwise(starts))


def test_windows_slice_given_frames_and_levels() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        assert condition.frame_mask is not None
        assert condition.frame_latents is not None
        assert condition.frame_latents.shape == x.shape
        seen.append((time, condition.frame_mask))
        return x

    x, mask = torch.randn(1, 2, 8, 2, 2), torch.arange(8.0)[None]
    condition = Condition(frame_mask=mask, frame_latents=torch.zeros_like(x))
    out = Windows(4, 2, unit=2).over(network)(x, torch.arange(4.0)[None], condition)
    assert torch.allclose(out, x, atol=1e-6)
    assert [time.tolist() for time, _ in seen] == [[[0, 1]], [[1, 2]], [[2, 3]]]
    assert [frames.tolist() for _, frames in seen] == [[[0, 1, 2, 3]], [[2, 3, 4, 5]], [[4, 5, 6, 7]]]


@pytest.mark.parametrize(("length", "overlap", "unit"), [(3, 3, 1), (3, 0, 1), (3, 2, 2), (4, 1, 2)])
def test_windows_that_cannot_be_are_refused(length: int, overlap: int, unit: int) -> None:
    with pytest.raises(UserError, match=r"overlap|window"):
        Windows(length, overlap, unit)


def test_noise_on_a_great_circle_keeps_its_length_and_on_the_line_does_not() -> None:
    first, last = torch.randn(3, 4, 5, 6, 7), torch.randn(3, 4, 5, 6, 7)
    share = torch.tensor([0.0, 0.5, 1.0])
    round_about, straight = (between(first, last, share, kind) for kind in ("slerp", "linear"))
    for found in (round_about, straight):
        assert torch.allclose(found[0], first[0], atol=1e-6)
        assert torch.allclose(found[2], last[2], atol=1e-6)
    size = math.sqrt(first[1].numel())
    assert abs(float(round_about[1].norm()) / size - 1) < 0.1
    assert float(straight[1].norm()) / size < 0.8
    assert torch.allclose(between(first, first, share, "slerp"), first, atol=1e-6)


def test_every_evaluation_is_shown() -> None:
    seen: list[float] = []
    made(Task(observe=lambda x, level, estimate: seen.append(level.t)), solver="heun")
    assert len(seen) == 11 or len(seen) == 12
    assert seen[0] == 1.0
