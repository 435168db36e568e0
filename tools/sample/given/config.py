"""Settings of given pictures and clips, and of windows over long clips; columns of requests too."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from core.config.settings import setting
from core.diffusion.tasks.between import Interpolation
from core.diffusion.tasks.task import Keep
from core.errors import UserError

PLACES = ("given", "given_last", "image", "mask")


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Pictures and clips to continue, keep or change; each has the size of the samples."""

    given: str = setting(
        "",
        "picture or film that samples begin with; its frames must fill whole latent frames; with "
        "given_every a film as long as the samples",
        shown="path",
        role="place",
    )
    given_last: str = setting(
        "",
        "picture that samples end with, encoded as a still; or a film, whose frames fill whole latent frames",
        shown="path",
        role="place",
    )
    given_every: int = setting(
        0,
        "0 or n: latent frames 0, n, 2n, ... of the film `given` are given, and those between are generated",
        low=0,
    )
    keep: Keep = setting(
        "replacement",
        "how given frames and parts are kept, where the run was not trained for that: replace the known "
        "part of the state by itself under noise, or project the estimated data onto it, by a few "
        "backward passes per evaluation of the network",
    )
    image: str = setting(
        "",
        "picture or film that a mask keeps parts of, or that start_time begins from",
        shown="path",
        role="place",
    )
    mask: str = setting(
        "",
        "picture: white parts are generated, black parts of `image` are kept",
        shown="path",
        role="place",
    )
    start_time: float | None = setting(
        None,
        "time on the path at which samples begin from `image` under noise (SDEdit); larger values change "
        "more; null is pure noise",
        low=0.0,
        high=1.0,
    )
    to_number: int | None = setting(
        None,
        "number of a second noise: the samples of a request interpolate from their own noise to that one "
        "in equal steps",
        low=0,
    )
    toward: float | None = setting(
        None, "position of a sample between the two noises, 0 to 1; null is equal steps", low=0.0, high=1.0
    )
    interpolation: Interpolation = setting(
        "slerp", "interpolation between two noises: along a great circle (slerp), or linear"
    )
    window: int = setting(
        0,
        "frames that the network processes at once: longer clips are made of overlapping windows; 0 is "
        "all frames",
        low=0,
    )
    overlap: int = setting(0, "frames that neighbouring windows share; 0 is half of a window", low=0)

    def __post_init__(self) -> None:
        if self.given_every == 1 or (self.given_every and (not self.given or self.given_last)):
            expected = "0, or 2 or more with `given` and without `given_last`"
            raise UserError("given_every", self.given_every, expected)
        if (self.mask or self.start_time is not None) and not self.image:
            raise UserError("image", "''", "a picture or film, which mask and start_time are about")
        if self.image and not self.mask and self.start_time is None:
            raise UserError(
                "image", self.image, "'' without mask and start_time, which say what becomes of it"
            )
        if self.image and (self.given or self.given_last):
            raise UserError("image", self.image, "'' beside given frames")
        if self.keep != "replacement" and not (self.given or self.given_last or self.mask):
            raise UserError("keep", self.keep, "replacement without given frames or a mask")
        if self.start_time == 0:
            raise UserError("start_time", 0, "above 0: at 0 nothing is made")
        if self.toward is not None and self.to_number is None:
            raise UserError("toward", self.toward, "null without to_number")
        if self.overlap and not self.overlap < self.window:
            raise UserError("overlap", self.overlap, f"0, or fewer frames than window={self.window}")

    @property
    def is_plain(self) -> bool:
        """Return whether nothing is asked for."""
        return self == PLAIN

    @property
    def places(self) -> dict[str, str]:
        """The files, by field."""
        return {name: path for name in PLACES if (path := getattr(self, name))}

    def stated(self) -> dict[str, Any]:
        """Return the fields that are set."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


PLAIN = TaskConfig()
NAMES = tuple(field.name for field in fields(TaskConfig))
