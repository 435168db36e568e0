"""The step back and the variational bound against independent computations."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from core.diffusion.paths.chain import betas
from core.diffusion.paths.kinds import make_path
from core.diffusion.posterior import binned_log_likelihood, bound_bits, posterior

CHAINS = ("ddpm_linear", "ddpm_cosine")


def published(name: str) -> dict[str, torch.Tensor]:
    """Return every step's coefficients as Ho et al. write them (2006.11239, eq. 7), from the rates alone."""
    rate = betas(name)  # type: ignore[arg-type]
    product = torch.cumprod(1 - rate, 0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    return {
        "rate": rate,
        "product": product,
        "from_data": before.sqrt() * rate / (1 - product),
        "from_x": (1 - rate).sqrt() * (1 - before) / (1 - product),
        "variance": rate * (1 - before) / (1 - product),
    }


@pytest.mark.parametrize("name", CHAINS)
def test_one_step_back_is_the_published_posterior(name: str) -> None:
    expected = published(name)
    i = torch.arange(1, 1000, dtype=torch.float64)
    step = posterior(make_path(name), (i + 1) / 1000, i / 1000)  # type: ignore[arg-type]
    for field, value in (("from_x", "from_x"), ("from_data", "from_data"), ("variance", "variance")):
        torch.testing.assert_close(getattr(step, field), expected[value][1:], rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(step.transition, expected["rate"][1:], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", ["rectified_flow", *CHAINS])
def test_a_step_back_keeps_the_marginal(name: str) -> None:
    """Mean and variance of q(x_s | x_t, x_0) over x_t must be those of x_s, for steps of any length."""
    path = make_path(name)  # type: ignore[arg-type]
    t = torch.tensor([1.0, 0.9, 0.5, 0.2, 0.05], dtype=torch.float64)
    s = torch.tensor([0.5, 0.89, 0.1, 0.0, 0.01], dtype=torch.float64)
    step = posterior(path, t, s)
    torch.testing.assert_close(step.from_x * path.alpha(t) + step.from_data, path.alpha(s))
    torch.testing.assert_close(step.from_x**2 * path.sigma(t) ** 2 + step.variance, path.sigma(s) ** 2)


@pytest.mark.parametrize("name", CHAINS)
def test_bound_terms_are_the_divergences_computed_with_torch_distributions(name: str) -> None:
    index = torch.tensor([1, 7, 300, 998])
    generator = torch.Generator().manual_seed(0)
    x0, noise, guess, fraction = torch.randn(4, 4, 2, 1, 3, 3, generator=generator)
    t, table = (index.double() + 1) / 1000, published(name)
    columns = {key: value[index].reshape(4, 1, 1, 1, 1) for key, value in table.items()}
    x_t = columns["product"].sqrt() * x0 + (1 - columns["product"]).sqrt() * noise
    weight = (fraction.double() + 1) / 2
    log_variance = weight * columns["rate"].log() + (1 - weight) * columns["variance"].log()
    true = Normal(columns["from_x"] * x_t + columns["from_data"] * x0, columns["variance"].sqrt())
    model = Normal(columns["from_x"] * x_t + columns["from_data"] * guess, (log_variance / 2).exp())
    expected = kl_divergence(true, model).mean((1, 2, 3, 4)) / math.log(2)
    found = bound_bits(make_path(name), t.float(), x0, x_t.float(), guess, fraction)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected.float(), rtol=2e-4, atol=1e-5)


def test_bound_of_the_exact_step_back_is_zero() -> None:
    x0, x_t = torch.randn(2, 3, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.002, 0.5, 1.0])
    bits = bound_bits(make_path("ddpm_linear"), t, x0, x_t, x0, torch.full_like(x0, -1.0))
    torch.testing.assert_close(bits, torch.zeros(3), rtol=0, atol=1e-5)


def test_first_bound_term_is_the_likelihood_of_8_bit_bins() -> None:
    x0 = torch.tensor([-1.0, -0.2, 0.5, 1.0]).reshape(1, 1, 1, 2, 2)
    guess, fraction = x0 + 0.01, torch.zeros_like(x0)
    table = published("ddpm_linear")
    std = (table["rate"][0] * table["variance"][1]) ** 0.25  # geometric mean of the two limits at fraction 0
    plain = Normal(guess.double(), std)  # the first step's mean is the guess itself
    upper, lower = plain.cdf(x0 + 1 / 255), plain.cdf(x0 - 1 / 255)
    upper[x0 == 1], lower[x0 == -1] = 1, 0
    expected = -(upper - lower).log().mean() / math.log(2)
    t = torch.tensor([0.001])
    found = bound_bits(make_path("ddpm_linear"), t, x0, x0, guess, fraction)
    torch.testing.assert_close(found[0], expected.float(), rtol=1e-3, atol=0)


def test_bin_probabilities_sum_to_one() -> None:
    bins = torch.linspace(-1, 1, 256, dtype=torch.float64)
    total = binned_log_likelihood(bins, torch.tensor(0.3), torch.tensor(math.log(0.2))).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-9)


def test_the_bound_needs_a_chain() -> None:
    x = torch.zeros(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="rectified_flow"):
        bound_bits(make_path("rectified_flow"), torch.tensor([0.5]), x, x, x, x)
