"""The paths by name. A new one is a class in a file here, its name in `path.py`, and a place in the table.

Chains that differ in their rates alone are a case of `betas` in `chain.py` and a line of `ENDS` in
`config.py`; their names begin with `ddpm_`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from core.diffusion.paths.chain import DDPM, STEPS, betas, log_alpha_squared
from core.diffusion.paths.config import PathRecord, path_record
from core.diffusion.paths.exploding import Exploding
from core.diffusion.paths.path import Path, PathName
from core.diffusion.paths.straight import RectifiedFlow


def make_path(path: PathName | PathRecord) -> Path:
    """Return the path of a record, or the published one of a name."""
    return _made(path_record(path) if isinstance(path, str) else path)


KINDS: dict[PathName, Callable[[], Path]] = {"rectified_flow": RectifiedFlow}
"""Paths without parameters."""


@functools.cache  # so that its table goes to a device once
def _made(record: PathRecord) -> Path:
    if record.name in KINDS:
        return KINDS[record.name]()
    if record.sigma_min is not None and record.sigma_max is not None:
        return Exploding(record.name, record.sigma_min, record.sigma_max)
    if record.rates is not None:
        rates = torch.tensor(record.rates, dtype=torch.float64)
    else:
        ends = (record.beta_first or 0.0, record.beta_last or 0.0)
        rates = betas(record.name, record.steps or STEPS, *ends)
    return DDPM(record.name, log_alpha_squared(rates, ends_without_signal=bool(record.zero_terminal_snr)))
