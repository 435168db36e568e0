"""Measure the statistics of features and the distance of two of them, beside torch-fidelity's formulas.

Ours adds features up as they come, in float64, and takes roots of symmetric matrices; torch-fidelity keeps
all features, takes `np.cov` of them and eigenvalues of the product of two covariances. Its module of formulas
is loaded alone: the package needs torchvision, which does not work beside every build of torch.
"""

from __future__ import annotations

import importlib.util
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tools.bench.job import Config
from tools.bench.rounds import Floor, Row, Way, measure
from tools.evaluate.moments import Moments, Reference

PEER = "torch-fidelity"
WIDTH, PART = 2048, 512
MOST_GIB = 4.0  # of a score of 50,000 pictures; sums are a part of that
CLOSE = 1e-3  # torch-fidelity takes means of float32 features in float32
OUTSIDE = ("helpers", "utils")  # modules of it that its formulas import for other ends

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]
Features = Callable[[], Iterator[NDArray[np.float32]]]


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure statistics of `config.features` features, and the distance of two such sets."""
    formulas = torch_fidelity()
    return [_statistics(config, formulas), _distance(config, formulas)]


def torch_fidelity() -> ModuleType | None:
    """Return its module of FID's formulas, None where it is not installed."""
    package = importlib.util.find_spec("torch_fidelity")
    if package is None or not package.submodule_search_locations:
        return None
    name = "torch_fidelity.metric_fid"
    place = Path(package.submodule_search_locations[0]) / "metric_fid.py"
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    stubs: dict[str, ModuleType] = {f"torch_fidelity.{part}": _Anything(part) for part in OUTSIDE}
    stubs["torch_fidelity"] = _Anything("torch_fidelity")
    kept = {key: sys.modules.get(key) for key in stubs}
    sys.modules.update(stubs)
    try:
        spec.loader.exec_module(module)
    finally:
        for key, before in kept.items():
            if before is None:
                del sys.modules[key]
            else:
                sys.modules[key] = before
    return module


class _Anything(ModuleType):
    """A module that has a function of every name, which does nothing."""

    __path__: list[str] = []  # noqa: RUF012 (as modules have it)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def features(count: int, seed: int) -> Features:
    """Return what yields the same features, (n, 2048) float32, part by part, each time: like Inception's,
    not below 0, and far from equal in spread."""
    spread = np.geomspace(0.01, 1.0, WIDTH, dtype=np.float32)

    def parts() -> Iterator[NDArray[np.float32]]:
        random = np.random.default_rng(seed)
        for start in range(0, count, PART):
            some = random.standard_normal((min(PART, count - start), WIDTH), np.float32)
            yield np.abs(some) * spread

    return parts


def _statistics(config: Config, formulas: ModuleType | None) -> Row:
    known = list(features(config.features, 0)())
    protocol = f"{config.features:,} features of {WIDTH}, float32, in memory as parts of {PART}"
    row = Row("mean and covariance", "features", protocol, absent=() if formulas else (PEER,))
    ways = {"longtake": lambda: by_sums(iter(known))}
    if formulas is not None:
        ways[PEER] = lambda: by_formulas(formulas, iter(known))
    expected = by_sums(iter(known))
    right = lambda found: all(map(_close, found, expected))  # noqa: E731
    row.timings = measure(
        [_way(name, config.features, way, right) for name, way in ways.items()], config.rounds
    )
    row.require(PEER, 0.5)  # sums of parts of 512 took 1.4 times as long as one product of 6,144 features
    for name, way in ways.items():
        row.facts[f"GiB beside the features, {name}"] = gib(way)
    ours = row.facts["GiB beside the features, longtake"]
    row.floors.append(Floor("GiB beside the features", ours, MOST_GIB, at_most=True))
    return row


def _distance(config: Config, formulas: ModuleType | None) -> Row:
    one, other = (by_sums(features(2 * WIDTH, seed)()) for seed in (0, 1))
    protocol = f"two means and covariances of {WIDTH} numbers, each of {2 * WIDTH} features"
    row = Row("Fréchet distance", "distances", protocol, absent=() if formulas else (PEER,))
    ways: dict[str, Callable[[], Any]] = {"longtake": lambda: Reference(*one).distance_of(*other)}
    if formulas is not None:
        told = [{"mu": mean, "sigma": covariance} for mean, covariance in (one, other)]
        ways[PEER] = lambda: formulas.fid_statistics_to_metric(*told, False)[formulas.KEY_METRIC_FID]
    expected = Reference(*one).distance_of(*other)
    right = lambda found: abs(found - expected) <= 1e-6 * expected  # noqa: E731
    row.timings = measure([_way(name, 1, way, right) for name, way in ways.items()], config.rounds)
    row.require(PEER, 1.0)
    return row


def by_sums(parts: Iterator[NDArray[np.float32]]) -> Statistics:
    """Add features up part by part."""
    sums = Moments.empty(WIDTH)
    for part in parts:
        sums.add(part)
    return sums.mean, sums.covariance


def by_formulas(formulas: ModuleType, parts: Iterator[NDArray[np.float32]]) -> Statistics:
    """Do what torch-fidelity does with features that it has collected."""
    found = formulas.fid_features_to_statistics(torch.from_numpy(np.concatenate(list(parts))))
    return found["mu"], found["sigma"]


def gib(work: Callable[[], Any]) -> float:
    """Return the most memory that NumPy takes for the work at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**30
    finally:
        tracemalloc.stop()


def _way(name: str, units: int, work: Callable[[], Any], right: Callable[[Any], bool]) -> Way:
    return Way(name, units, lambda: iter([work()]), right)


def _close(found: NDArray[np.floating], expected: NDArray[np.float64]) -> bool:
    return bool(np.abs(found - expected).max() <= CLOSE * np.abs(expected).max())
