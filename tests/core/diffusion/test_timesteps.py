"""Distributions of training times."""

import math
from pathlib import Path

import pytest
import torch

from core.batch import Condition
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.time_density import fitted, read_density
from core.diffusion.timesteps import TimestepConfig, draw, uniforms
from core.draws import Draws
from core.errors import UserError

U = (torch.arange(10_000) + 0.5) / 10_000


def test_uniform_is_the_draw_itself_on_a_continuous_path() -> None:
    assert torch.equal(draw(TimestepConfig(), make_path("rectified_flow"), U), U)


def test_a_chain_gets_each_of_its_times_equally_often() -> None:
    t = draw(TimestepConfig(), make_path("ddpm_linear"), U)
    times, counts = t.unique(return_counts=True)
    torch.testing.assert_close(times, torch.arange(1, 1001) / 1000)
    assert counts.tolist() == [10] * 1000


def test_logit_normal_has_its_quantiles() -> None:
    t = draw(TimestepConfig(kind="logit_normal", mean=0.5, std=2.0), make_path("rectified_flow"), U)
    logits = torch.logit(t.double())
    assert float(logits.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(logits.std()) == pytest.approx(2.0, rel=0.01)
    assert float(t.median()) == pytest.approx(torch.sigmoid(torch.tensor(0.5)).item(), abs=1e-3)


@pytest.mark.parametrize("name", ["rectified_flow", "ddpm_linear", "ddpm_cosine"])
@pytest.mark.parametrize(
    ("kind", "quartile"),
    [("edm", 0.6744897501960817), ("laplace", math.log(2)), ("cauchy", 1.0), ("sech", 0.5610998523)],
)
def test_distributions_of_the_noise_ratio_have_their_quartiles_on_any_path(
    name: PathName, kind: str, quartile: float
) -> None:
    config = TimestepConfig(kind=kind, mean=-0.4, std=0.5)  # type: ignore[arg-type]
    path = make_path(name)
    t = draw(config, path, U.double()).double()
    ratio = torch.log(path.sigma(t) / path.alpha(t))
    for share, place in ((0.25, -1), (0.5, 0), (0.75, 1)):
        expected = -0.4 + 0.5 * place * quartile
        assert float(ratio.quantile(share)) == pytest.approx(expected, abs=0.01)


def test_mode_is_uniform_without_its_scale_and_favours_the_middle_with_it() -> None:
    path = make_path("rectified_flow")
    torch.testing.assert_close(draw(TimestepConfig(kind="mode", mode_scale=0.0), path, U), 1 - U)
    t = draw(TimestepConfig(kind="mode"), path, U)
    assert float(((t > 0.4) & (t < 0.6)).float().mean()) > 0.22


def test_shift_multiplies_the_odds() -> None:
    u = U.double()
    t = draw(TimestepConfig(shift=3.0), make_path("rectified_flow"), u)
    torch.testing.assert_close(t / (1 - t), 3 * u / (1 - u))


def test_times_stay_on_the_path_at_the_extremes() -> None:
    extremes = torch.tensor([2.0**-24, 1 - 2.0**-24])
    for name in ("rectified_flow", "ddpm_cosine"):
        config = TimestepConfig(kind="logit_normal", mean=3.0, std=5.0, shift=10.0)
        t = draw(config, make_path(name), extremes)
        assert (t > 0).all()
        assert (t <= 1).all()


@pytest.mark.parametrize("kind", ["logit_normal", "mode", "edm", "laplace", "cauchy", "sech"])
@pytest.mark.parametrize("mean", [-30.0, 0.0, 30.0])
def test_no_time_rounds_to_an_end(kind: str, mean: float) -> None:
    extremes = torch.tensor([2.0**-24, 0.5, 1 - 2.0**-24])
    for scale in (-1.0, 1.75):
        config = TimestepConfig(kind=kind, mean=mean, std=8.0, mode_scale=scale)  # type: ignore[arg-type]
        t = draw(config, make_path("rectified_flow"), extremes)
        assert (t > 0).all()
        assert (t < 1).all()


def test_a_shift_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match="shift=0"):
        TimestepConfig(shift=0)


def step_of(size: int, step: int = 3, seed: int = 0, first: int = 0) -> Draws:
    places = torch.arange(first, first + size)
    return Draws(seed, step, places * 7 + 5, places)


STRATIFIED = TimestepConfig(stratified=True)


@pytest.mark.parametrize(("first", "size"), [(0, 8), (64, 32), (4096, 256), (0, 4096)])
def test_stratified_uniforms_lie_one_in_each_part(first: int, size: int) -> None:
    u = uniforms(STRATIFIED, step_of(size, first=first))
    assert u.dtype == torch.float32
    assert (u.double() * size).long().sort().values.tolist() == list(range(size))


def test_a_group_of_any_size_is_spread_better_than_by_chance() -> None:
    """The largest gap to an even spread, of groups of 50 that begin anywhere: about 1.6 / 50, not 6 / 50."""
    for first in (0, 37, 150):
        ordered = uniforms(STRATIFIED, step_of(50, first=first)).sort().values
        even = (torch.arange(50) + 0.5) / 50
        assert float((ordered - even).abs().max()) < 0.06


def test_stratified_uniforms_are_uniform_over_steps_for_every_place() -> None:
    found = torch.stack([uniforms(STRATIFIED, step_of(4, step=step)) for step in range(500)])
    for place in range(4):
        ordered = found[:, place].double().sort().values
        even = (torch.arange(500) + 0.5) / 500
        assert float((ordered - even).abs().max()) < 1.95 / 500**0.5  # Kolmogorov's test at 0.1 %
    firsts = (found * 4).long()
    assert len({tuple(row) for row in firsts.tolist()}) == 4  # orders; a digital shift has four of four parts


def test_stratified_uniforms_do_not_depend_on_how_a_step_is_cut() -> None:
    whole = uniforms(STRATIFIED, step_of(24))
    assert torch.equal(whole[8:16], uniforms(STRATIFIED, step_of(8, first=8)))
    assert not torch.equal(whole, uniforms(STRATIFIED, step_of(24, step=4)))
    assert not torch.equal(whole, uniforms(STRATIFIED, step_of(24, seed=1)))
    plain = step_of(24)
    assert torch.equal(uniforms(TimestepConfig(), plain), plain.uniform("time"))
    assert 0 < float(whole.min()) < float(whole.max()) < 1


def density_file(folder: Path, text: str) -> TimestepConfig:
    (folder / "times.txt").write_text(text)
    return TimestepConfig(kind="file", density=str(folder / "times.txt"))


def test_a_density_from_a_file_is_drawn_by_its_shares(tmp_path: Path) -> None:
    config = density_file(tmp_path, "1\n0\n\n3\n4\n")
    density = read_density(config.density)
    t = draw(config, make_path("rectified_flow"), U, density=density)
    shares = torch.histc(t, 4, 0, 1) / len(U)
    torch.testing.assert_close(shares, torch.tensor([1, 0, 3, 4]) / 8, rtol=0, atol=2e-3)
    inside = t[t > 0.75].double().sort().values
    even = 0.75 + 0.25 * (torch.arange(len(inside)) + 0.5) / len(inside)
    torch.testing.assert_close(inside, even.double(), rtol=0, atol=1e-4)
    on_chain = draw(config, make_path("ddpm_linear"), U, density=density)
    assert not ((on_chain > 0.2501) & (on_chain < 0.5)).any()


def test_an_objective_draws_by_its_file_in_whatever_form_times_are_drawn(tmp_path: Path) -> None:
    config = density_file(tmp_path, "0\n1\n")
    for objective in (
        Objective(ObjectiveConfig(timesteps=config)),
        Objective(ObjectiveConfig(timesteps=config, frame_times="independent"), frames_per_level=1),
        Objective(ObjectiveConfig(timesteps=config, kind="mean_flow")),
    ):
        noised = objective.noised(torch.zeros(64, 1, 2, 1, 1), Condition(), step_of(64))
        assert (noised.time[noised.time > 0] >= 0.5).all()
        assert noised.end is None or (noised.end >= 0.5).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n", r"density=.*: expected 2 to 10000 densities, one in each line; it has 1"),
        ("1\n-1\n", "density=-1: expected a number of at least 0, in line 2"),
        ("1\nnan\n", "density=nan: expected a number of at least 0, in line 2"),
        ("1\nmany\n", "density=many: expected a number of at least 0, in line 2"),
        ("0\n0\n", "expected densities of which one is above 0"),
    ],
)
def test_a_file_that_is_no_density_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Objective(ObjectiveConfig(timesteps=density_file(tmp_path, text)))


def test_a_density_and_its_kind_go_together(tmp_path: Path) -> None:
    for fields in ({"kind": "file"}, {"density": "times.txt"}):
        with pytest.raises(UserError, match=r"density=.*: expected a file of densities with kind=file"):
            TimestepConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"density=.*nowhere: expected a file with a density in each line"):
        Objective(ObjectiveConfig(timesteps=TimestepConfig(kind="file", density=str(tmp_path / "nowhere"))))


def test_a_density_is_fitted_to_losses() -> None:
    assert fitted([[1.0, None], [3.0, 4.0]]) == (2.0, 4.0)
    with pytest.raises(UserError, match="part 2 has none"):
        fitted([[1.0, None]])
    with pytest.raises(UserError, match="a run that has recorded losses"):
        fitted([])
