"""Settings of a path, and the record of one in a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from core.config.settings import setting
from core.diffusion.paths.chain import STEPS, betas
from core.diffusion.paths.path import PathName
from core.errors import UserError
from core.files import fingerprint
from core.reading.number_lines import read_numbers

MOST_STEPS = 100_000
ENDS: dict[PathName, tuple[float, float]] = {
    "ddpm_linear": (1e-4, 0.02),
    "ddpm_sigmoid": (1e-4, 0.02),
    "ddpm_scaled_linear": (0.00085, 0.012),  # of Stable Diffusion
}
"""First and last rate, by the chains that have them."""
SIGMAS: dict[PathName, tuple[float, float]] = {"variance_exploding": (0.01, 50.0), "edm": (0.002, 80.0)}


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Parameters of a path, each of some paths alone; 0 is the path's own."""

    steps: int = setting(
        0, "ddpm paths: number of steps; 0 is 1000, of ddpm_file as many as the file has", low=0
    )
    beta_first: float = setting(
        0.0,
        "ddpm_linear, _sigmoid, _scaled_linear: first rate of a chain of 1000 steps; 0 is the published one",
        low=0,
    )
    beta_last: float = setting(
        0.0, "the last rate of that chain; for N steps rates are multiplied by 1000/N", low=0
    )
    betas: str = setting(
        "", "ddpm_file: text file with one rate in (0, 1) per step", shown="path", role="place"
    )
    zero_terminal_snr: bool = setting(
        False,
        "ddpm paths: rescale so that no signal is left at the end (2305.08891); not for predicted noise "
        "or score",
    )
    sigma_min: float = setting(
        0.0, "variance_exploding (0.01), edm (0.002): smallest noise level in training", low=0
    )
    sigma_max: float = setting(0.0, "variance_exploding (50), edm (80): noise level at t = 1", low=0)


@dataclass(frozen=True, kw_only=True)
class PathRecord:
    """A path with all parameters that it has, as a run records it; None for those that it has not.

    rates: of ddpm_file, beta_i.
    """

    name: PathName
    steps: int | None = None
    beta_first: float | None = None
    beta_last: float | None = None
    zero_terminal_snr: bool | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    rates: tuple[float, ...] | None = None

    @property
    def is_chain(self) -> bool:
        return self.name.startswith("ddpm_")

    @property
    def shown(self) -> str:
        """Return the name, with the parameters that differ from the published ones."""
        usual = path_record(self.name) if self.name != "ddpm_file" else PathRecord(name=self.name)
        found = {name: value for name, value in self.parameters().items() if value != getattr(usual, name)}
        if self.rates is not None:
            found["rates"] = f"those with hash {fingerprint(list(self.rates))[:12]}"
        listed = ", ".join(f"{name}={value}" for name, value in found.items())
        return f"{self.name} ({listed})" if listed else self.name

    def parameters(self) -> dict[str, Any]:
        """Return what the path has beside its name."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "name"}

    @classmethod
    def of(cls, name: PathName, parameters: Mapping[str, Any] | None) -> Self:
        """Return the record of a run.  parameters: None for an older run, whose path is the published one."""
        if parameters is None:
            return cls(**asdict(path_record(name)))
        rates = parameters.get("rates")
        return cls(name=name, **{**parameters, "rates": None if rates is None else tuple(rates)})


def path_record(
    name: PathName, config: ScheduleConfig = ScheduleConfig(), rates: tuple[float, ...] | None = None
) -> PathRecord:
    """Return the record of a path, with the rates that its file holds; UserError as in `require_path`.

    rates: those of ddpm_file where they are known, as a run records them; None reads the file.
    """
    require_path(name, config)
    if name in SIGMAS:
        least, most = _sigmas(name, config)
        return PathRecord(name=name, sigma_min=least, sigma_max=most)
    if not name.startswith("ddpm_"):
        return PathRecord(name=name)
    first, last = _ends(name, config) if name in ENDS else (None, None)
    steps, zero = config.steps or STEPS, config.zero_terminal_snr
    if name == "ddpm_file":
        rates = read_rates(config.betas) if rates is None else rates
        if config.steps not in (0, len(rates)):
            raise UserError("steps", config.steps, f"{len(rates)}, as {config.betas} has, or 0")
        steps = len(rates)
    return PathRecord(
        name=name, steps=steps, beta_first=first, beta_last=last, zero_terminal_snr=zero, rates=rates
    )


def require_path(name: PathName, config: ScheduleConfig) -> None:
    """Raise UserError for parameters that a path does not have, or that make no path; reads no file."""
    _require_own(name, config)
    if name in SIGMAS:
        least, most = _sigmas(name, config)
        if not 0 < 2 * least <= most < math.inf:
            raise UserError("sigma_max", most, f"a number that is at least twice sigma_min={least:g}")
    if name in ENDS:
        _require_rates(name, config.steps or STEPS, *_ends(name, config))


def _sigmas(name: PathName, config: ScheduleConfig) -> tuple[float, float]:
    return config.sigma_min or SIGMAS[name][0], config.sigma_max or SIGMAS[name][1]


def _ends(name: PathName, config: ScheduleConfig) -> tuple[float, float]:
    return config.beta_first or ENDS[name][0], config.beta_last or ENDS[name][1]


def read_rates(path: str) -> tuple[float, ...]:
    """Read a file of rates beta_i, one in each line; UserError for what is no chain."""
    accepted = "a number between 0 and 1, both excluded"
    return read_numbers(path, "betas", "rate", "rates", lambda rate: 0 < rate < 1, accepted, MOST_STEPS)


def _require_own(name: PathName, config: ScheduleConfig) -> None:
    is_chain = name.startswith("ddpm_")
    belongs = {
        "steps": is_chain,
        "beta_first": name in ENDS,
        "beta_last": name in ENDS,
        "betas": name == "ddpm_file",
        "zero_terminal_snr": is_chain,
        "sigma_min": name in SIGMAS,
        "sigma_max": name in SIGMAS,
    }
    for field, is_own in belongs.items():
        if (value := getattr(config, field)) and not is_own:
            raise UserError(field, value, f"its default with path={name}, which has no such parameter")
    if name == "ddpm_file" and not config.betas:
        raise UserError("betas", "''", "a file with a rate in each line, with path=ddpm_file")
    if config.steps and not 2 <= config.steps <= MOST_STEPS:
        raise UserError("steps", config.steps, f"0, or 2 to {MOST_STEPS}")


def _require_rates(name: PathName, steps: int, first: float, last: float) -> None:
    found = betas(name, steps, first, last)
    if first > last or not (float(found.min()) > 0 and float(found.max()) < 1):
        expected = (
            f"rates that rise within (0, 1): of {steps} steps they run from {float(found[0]):g} to "
            f"{float(found[-1]):g} with beta_first={first:g}"
        )
        raise UserError("beta_last", last, expected)
