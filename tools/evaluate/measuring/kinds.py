"""The kinds of measurement; each is imported when it is asked for, since most need PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tools.evaluate.measuring.measuring import Measuring


class Kind(NamedTuple):
    """A kind.  settings: of `evaluate`, that it takes.  lines: what a dry run says.  open: begins it."""

    settings: type
    lines: Callable[[Any], list[str]]
    open: Callable[[Any], Measuring]


def kind_of(measure: str, imported: str) -> Kind:
    """Return the kind of a measurement, as the fields of `evaluate` say it."""
    if measure == "reconstruction":
        from tools.evaluate.measuring import reconstruction_measure as of_copies
        from tools.evaluate.reconstruction import Comparison

        return Kind(Comparison, of_copies.lines, of_copies.OfAutoencoder)
    if measure != "samples":
        from tools.evaluate.measuring import density_measure as of_latents

        return Kind(of_latents.Settings, of_latents.lines, of_latents.OfCache)
    if imported:
        from tools.evaluate.measuring import result_measure as of_results

        return Kind(of_results.Settings, of_results.lines, of_results.OfResult)
    from tools.evaluate.measuring import samples_measure as of_samples

    return Kind(of_samples.Settings, of_samples.lines, of_samples.OfSamples)
