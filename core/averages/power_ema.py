"""Power-function EMA profiles and their post-hoc reconstruction (Karras et al. 2024, arXiv:2312.02696).

A profile weighs the weights of time tau in an average taken at time t as p(tau; t) = (gamma + 1) / t * (tau /
t)^gamma. Its width relative to t is sigma_rel; snapshots of two profiles, kept now and then, span a space in
which the average of any other width is found afterwards by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDEST = 1 / math.sqrt(12)  # the width of a plain mean over the whole run


@dataclass(frozen=True)
class Snapshot:
    """One stored average: the profile's exponent gamma, taken at `step` optimizer steps."""

    gamma: float
    step: int


def gamma_of_width(sigma_rel: float) -> float:
    """Return the exponent whose profile has standard deviation `sigma_rel` * t (0 < sigma_rel < 0.288)."""
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(f"sigma_rel={sigma_rel}: expected above 0 and below {WIDEST:.3f}")
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def width_of_gamma(gamma: float) -> float:
    """Return the relative standard deviation of a profile."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def decay(gamma: float, step: int, every: int = 1) -> float:
    """Return the decay at update `step` (1, 2, ...) of an average that is updated every `every` steps.

    The product of single decays (1 - 1/t)^(gamma + 1) telescopes, so skipping updates needs no correction.
    """
    return max(0.0, 1 - every / step) ** (gamma + 1)


def reconstruction_weights(snapshots: Sequence[Snapshot], target: Snapshot) -> np.ndarray:
    """Return snapshot factors whose sum fits the target's profile best in least squares (algorithm 3).

    Snapshots taken after the target's step are refused: their profiles hold weights the target has not seen.
    """
    if not snapshots or max(s.step for s in snapshots) > target.step:
        raise ValueError(f"expected snapshots up to step {target.step}, got {[s.step for s in snapshots]}")
    gram = np.array([[inner_product(a, b) for b in snapshots] for a in snapshots])
    wanted = np.array([inner_product(a, target) for a in snapshots])
    scale = 1 / np.sqrt(np.diag(gram))  # scales to unit profiles: late and early ones differ by magnitudes
    solution, *_ = np.linalg.lstsq(gram * scale[:, None] * scale, wanted * scale, rcond=1e-12)
    return solution * scale


def profile_error(snapshots: Sequence[Snapshot], target: Snapshot, factors: np.ndarray) -> float:
    """Return the distance of the weighted snapshots' sum from the target's profile, relative to its norm."""
    gram = np.array([[inner_product(a, b) for b in snapshots] for a in snapshots])
    shared = np.array([inner_product(a, target) for a in snapshots])
    own = inner_product(target, target)
    return math.sqrt(max(0.0, float(own - 2 * factors @ shared + factors @ gram @ factors)) / own)


def inner_product(a: Snapshot, b: Snapshot) -> float:
    """Integrate the product of two profiles over tau, in logarithms, since t^gamma overflows."""
    log_value = (
        math.log(a.gamma + 1)
        + math.log(b.gamma + 1)
        - math.log(a.gamma + b.gamma + 1)
        + (a.gamma + b.gamma + 1) * math.log(min(a.step, b.step))
        - (a.gamma + 1) * math.log(a.step)
        - (b.gamma + 1) * math.log(b.step)
    )
    return math.exp(log_value)
