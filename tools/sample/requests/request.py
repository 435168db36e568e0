"""One row of a file of requests: samples that are asked for together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from core.config.loading import from_dict
from core.config.sections import section
from core.config.settings import setting
from core.config.values import Typed
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.kinds import SolverName
from core.errors import UserError
from tools.sample.given.config import NAMES, PLACES, TaskConfig

CLASS = "class"  # the column; no name of Python can be it
_SAMPLER = ("solver", "steps", "guidance", "guidance_start", "guidance_end")


@dataclass(frozen=True, kw_only=True)
class Request(TaskConfig):
    """Samples asked for in one row. What a row does not say is as the config of the job says.

    class_name, prompt: the conditions.  negative_class, negative_prompt: what guidance moves away from, in
    place of none.  name: what {name} is in file names; the prompt if it is empty.
    seed: of the noise.  number: of the noise of the first sample, one more for each that follows; without
    both, samples take the running numbers of the whole file under the seed of the job.
    folder: what {folder} is in file names.
    """

    class_name: str = setting("", "name or number of the class")
    prompt: str = setting("", "text to generate from")
    name: str = setting("", "value of {name} in file names; '' is the prompt")
    folder: str = setting("", "value of {folder} in file names")
    seed: int | None = setting(None, "seed of the noise", low=0)
    number: int | None = setting(None, "number of the noise of the first sample", low=0, high=(1 << 63) - 1)
    count: int = setting(0, "samples; 0 is as the config says", low=0)
    height: int = setting(0, "pixels", low=0)
    width: int = setting(0, "pixels", low=0)
    frames: int = setting(0, "frames", low=0)
    fps: float = setting(0.0, "frames per second", low=0)
    solver: SolverName | None = setting(None, "solver")
    steps: int | None = setting(None, "steps", low=1)
    guidance: float | None = setting(None, "guidance scale", low=0)
    guidance_start: float | None = setting(None, "largest time at which guidance acts", low=0, high=1)
    guidance_end: float | None = setting(None, "smallest time at which guidance acts", low=0, high=1)
    negative_class: str = setting("", "name or number of the class to move away from")
    negative_prompt: str = setting("", "text to move away from")

    def sampler(self, usual: SamplerConfig) -> SamplerConfig:
        """Return the sampler of this row's samples; UserError where its values do not fit each other."""
        own = {name: getattr(self, name) for name in _SAMPLER if getattr(self, name) is not None}
        return replace(usual, **own) if own else usual

    def task(self, usual: TaskConfig) -> TaskConfig:
        """Return what this row's samples are made from, that of the job where the row says nothing of it."""
        own = section(TaskConfig, self)
        return usual if own.is_plain else own

    def as_recorded(self) -> dict[str, Any]:
        """Return the fields, without those that earlier versions did not have where they say nothing."""
        usual = {f.name: f.default for f in fields(self)}
        known = asdict(self)
        return {name: known[name] for name in known if name not in ADDED_LATER or known[name] != usual[name]}

    @property
    def file_name(self) -> str:
        """Return what stands for {name}."""
        return self.name or self.prompt or self.class_name


ADDED_LATER = ("negative_class", "negative_prompt", *NAMES)
_OWN = tuple(field.name for field in fields(Request) if field.name not in NAMES)
COLUMNS = tuple(CLASS if name == "class_name" else name for name in (*_OWN, *NAMES))


def make_request(row: Mapping[str, Any]) -> Request:
    """Read the fields of a row, texts as in a table or values as in JSON; UserError names the wrong one.

    Empty fields are not given.
    """
    given = {name.strip(): value for name, value in row.items() if value not in (None, "")}
    if unknown := [name for name in given if name not in COLUMNS]:
        raise UserError(f"column {unknown[0]!r} is not one of {', '.join(COLUMNS)}")
    for name, value in given.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:  # bytes that are none, or half of a surrogate pair
            raise UserError(name, value, "text in UTF-8") from None
    values = {"class_name" if name == CLASS else name: _typed(name, value) for name, value in given.items()}
    try:
        return from_dict(Request, values)
    except UserError as error:
        if error.expected is None:
            raise
        raise UserError(_column(error.field), error.value, error.expected) from None


def _typed(name: str, value: Any) -> Any:
    if name in (CLASS, "negative_class") and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return Typed(value) if isinstance(value, str) and name not in _TEXTS else value


def _column(field: str) -> str:
    return CLASS if field == "class_name" else field


_TEXTS = (CLASS, "prompt", "name", "folder", "negative_class", "negative_prompt", *PLACES)
