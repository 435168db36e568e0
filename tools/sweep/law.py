"""Fit the law L(N, D) = E + A / N^a + B / D^b by variable projection.

Hoffmann et al. (2022, arXiv:2203.15556), approach 3. For given exponents the law is linear in E, A and B, so
these follow exactly, and only (a, b) is searched (Golub and Pereyra, 1973): over a grid at first, so no
start is guessed, then by Levenberg-Marquardt steps. Residuals are relative, (law - loss) / loss: noise of
a loss grows with it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.progress import counted

Array = NDArray[np.float64]
PARAMETERS = 5
LEAST_POINTS = PARAMETERS + 1  # one more, so that residuals say something of the noise
EXPONENTS = (0.01, 4.0)  # that are searched
GRID = 20  # of each exponent, evenly spaced in its logarithm
STEPS = 100
_SUBSETS = [s for size in (3, 2, 1) for s in itertools.combinations(range(3), size)]


class Points(NamedTuple):
    """The data of a fit: parameters N, samples D and losses of n runs, each (n,)."""

    N: Array
    D: Array
    loss: Array


@dataclass(frozen=True)
class Law:
    """A fitted law.  spread: standard deviation of the relative residuals, with n - 5 degrees of freedom.

    covariance: (5, 5) of (E, ln A, ln B, a, b), by linearisation at the fit.
    """

    E: float
    A: float
    B: float
    a: float
    b: float
    residuals: Array
    spread: float
    covariance: Array

    def loss(self, N: Array | float, D: Array | float) -> Array:
        """Return the loss at N parameters and D samples."""
        return np.asarray(self.E + self.A * np.power(N, -self.a) + self.B * np.power(D, -self.b))

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the residuals."""
        return len(self.residuals) - PARAMETERS

    @property
    def values(self) -> Array:
        """The parameters in the order of the covariance."""
        return np.array([self.E, np.log(self.A), np.log(self.B), self.a, self.b])

    def with_values(self, values: Array) -> Law:
        """Return the law of other parameters, in the order of the covariance."""
        E, log_A, log_B, a, b = map(float, values)
        rest = (self.residuals, self.spread, self.covariance)
        return Law(E, float(np.exp(log_A)), float(np.exp(log_B)), a, b, *rest)


class _Projection(NamedTuple):
    """The best coefficients (3,) of E, A and B at given exponents, and the residuals (n,)."""

    coefficients: Array
    residuals: Array
    columns: Array


class _Scaled(NamedTuple):
    """Points with logarithms of N and D relative to their means, which keeps powers near 1."""

    N: Array
    D: Array
    weight: Array  # 1 / loss


def fit(points: Points) -> Law:
    """Fit the law; UserError where the points do not determine it."""
    require_determined(points)
    log_N, log_D = np.log(points.N), np.log(points.D)
    scaled = _Scaled(log_N - log_N.mean(), log_D - log_D.mean(), 1 / points.loss)
    a, b, found = _refined(scaled, *_best_of_grid(scaled))
    E, A, B = found.coefficients
    if flaw := _flaw(a, b, A, B):
        raise UserError(
            f"the losses do not follow E + A/N^a + B/D^b: the best fit has {flaw}; runs of a wider range of "
            "sizes and samples, or of less noise, are needed"
        )
    n = len(points.loss)
    spread = float(np.sqrt(found.residuals @ found.residuals / (n - PARAMETERS)))
    slopes = _slopes(scaled, a, b, found)
    inverse = np.linalg.pinv(slopes.T @ slopes)
    to_log = _unscaled(a, b, A, B, float(log_N.mean()), float(log_D.mean()))
    covariance = spread**2 * to_log.jacobian @ inverse @ to_log.jacobian.T
    return Law(float(E), to_log.A, to_log.B, a, b, found.residuals, spread, covariance)


def require_determined(points: Points) -> None:
    """Raise UserError for too few points, or points on which the law cannot be told from others."""
    n = len(points.loss)
    if n < LEAST_POINTS:
        raise UserError(
            f"the law has {PARAMETERS} parameters: {counted(n, 'finished run')}, "
            f"at least {LEAST_POINTS} needed"
        )
    log_N, log_D = np.log(points.N), np.log(points.D)
    for name, log in (("sizes of the network", log_N), ("numbers of samples", log_D)):
        if len(np.unique(np.round(log, 6))) < 3:
            raise UserError(f"the runs have fewer than 3 different {name}: no exponent can be told from them")
    both = np.stack([log_N - log_N.mean(), log_D - log_D.mean()])
    sizes = np.linalg.svd(both, compute_uv=False)
    if sizes[1] < 0.02 * sizes[0]:
        raise UserError(
            "the runs are collinear: samples follow from the size of the network, so the two terms of the "
            "law cannot be told apart; several sizes for one budget are needed"
        )


def _columns(scaled: _Scaled, a: float, b: float) -> Array:
    """Return (n, 3): what E, A and B are multiplied with, relative to the losses."""
    ones = np.ones_like(scaled.weight)
    return np.stack([ones, np.exp(-a * scaled.N), np.exp(-b * scaled.D)], 1) * scaled.weight[:, None]


def _project(scaled: _Scaled, a: float, b: float) -> _Projection:
    """Return the best coefficients >= 0: of the sets that may be above 0, the best with none below it."""
    columns = _columns(scaled, a, b)
    best: _Projection | None = None
    for subset in _SUBSETS:
        some = columns[:, subset]
        found = np.linalg.lstsq(some, np.ones(len(some)), rcond=None)[0]
        if (found < 0).any():
            continue
        coefficients = np.zeros(3)
        coefficients[list(subset)] = found
        residuals = columns @ coefficients - 1
        if best is None or residuals @ residuals < best.residuals @ best.residuals:
            best = _Projection(coefficients, residuals, columns)
        if len(subset) == 3:
            break  # without a constraint nothing is better
    assert best is not None  # a single positive column has a positive coefficient
    return best


def _best_of_grid(scaled: _Scaled) -> tuple[float, float]:
    """Return the exponents of the smallest residual on the grid.

    All sums over points are products of matrices, since a column depends on one exponent alone.
    """
    exponents = np.geomspace(*EXPONENTS, GRID)
    w = scaled.weight
    x, y = np.exp(-exponents[:, None] * scaled.N) * w, np.exp(-exponents[:, None] * scaled.D) * w  # (GRID, n)
    shape = (GRID, GRID)
    one_x, one_y = (x @ w)[:, None], (y @ w)[None]
    gram = np.empty((*shape, 3, 3))
    gram[..., 0, 0] = w @ w
    gram[..., 0, 1] = gram[..., 1, 0] = np.broadcast_to(one_x, shape)
    gram[..., 0, 2] = gram[..., 2, 0] = np.broadcast_to(one_y, shape)
    gram[..., 1, 1] = (x * x).sum(1)[:, None]
    gram[..., 2, 2] = (y * y).sum(1)[None]
    gram[..., 1, 2] = gram[..., 2, 1] = x @ y.T
    right = np.empty((*shape, 3))
    right[..., 0], right[..., 1], right[..., 2] = w.sum(), x.sum(1)[:, None], y.sum(1)[None]
    explained = np.zeros(shape)
    for subset in _SUBSETS:
        part = gram[..., subset, :][..., subset]
        part = part + 1e-12 * np.einsum("...ii->...", part)[..., None, None] * np.eye(len(subset))
        found = np.linalg.solve(part, right[..., subset, None])[..., 0]
        gain = (found * right[..., subset]).sum(-1)
        explained = np.where((found >= 0).all(-1) & (gain > explained), gain, explained)
    row, column = np.unravel_index(explained.argmax(), shape)
    return float(exponents[row]), float(exponents[column])


def _refined(scaled: _Scaled, a: float, b: float) -> tuple[float, float, _Projection]:
    """Descend from (a, b) by Levenberg-Marquardt steps in their logarithms, on Kaufman's Jacobian (1975)."""
    place, damping = np.log([a, b]), 1e-3
    low, high = np.log(EXPONENTS)
    found = _project(scaled, a, b)
    for _ in range(STEPS):
        a, b = np.exp(place)
        A, B = found.coefficients[1:]
        slopes = np.stack([-A * a * scaled.N, -B * b * scaled.D], 1) * found.columns[:, 1:]
        basis, _ = np.linalg.qr(found.columns[:, found.coefficients > 0])
        slopes -= basis @ (basis.T @ slopes)
        curvature, slope = slopes.T @ slopes, slopes.T @ found.residuals
        step = np.linalg.solve(curvature + damping * np.diag(curvature.diagonal() + 1e-30), -slope)
        tried = np.clip(place + np.clip(step, -0.5, 0.5), low, high)
        other = _project(scaled, *np.exp(tried))
        if other.residuals @ other.residuals < found.residuals @ found.residuals:
            small = float(np.abs(tried - place).max()) < 1e-9
            place, found, damping = tried, other, max(damping / 10, 1e-12)
            if small:
                break
        elif damping > 1e8 or float(np.abs(step).max()) < 1e-9:
            break
        else:
            damping *= 10
    return float(np.exp(place[0])), float(np.exp(place[1])), found


def _slopes(scaled: _Scaled, a: float, b: float, found: _Projection) -> Array:
    """Return the derivatives (n, 5) of the residuals by E, A, B, a and b, N and D relative to their means."""
    _, A, B = found.coefficients
    columns = found.columns
    return np.stack([*columns.T, -A * scaled.N * columns[:, 1], -B * scaled.D * columns[:, 2]], 1)


class _Unscaled(NamedTuple):
    A: float
    B: float
    jacobian: Array


def _unscaled(a: float, b: float, A: float, B: float, log_N: float, log_D: float) -> _Unscaled:
    """Return A and B for N and D as they are, and (E, ln A, ln B, a, b) by (E, A, B, a, b) before."""
    jacobian = np.eye(PARAMETERS)
    jacobian[1, 1], jacobian[2, 2] = 1 / A, 1 / B
    jacobian[1, 3], jacobian[2, 4] = log_N, log_D
    return _Unscaled(float(A * np.exp(a * log_N)), float(B * np.exp(b * log_D)), jacobian)


def _flaw(a: float, b: float, A: float, B: float) -> str:
    """Name what of a fit is 0 or at the end of its range; '' for none."""
    flaws = [f"{name}=0" for name, value in (("A", A), ("B", B)) if value <= 0]
    low, high = EXPONENTS
    edges = [f"{name}={value:.3g}" for name, value in (("a", a), ("b", b)) if not low < value < high]
    return " and ".join(flaws or edges)
