"""Settings of guidance beyond one scale for all conditions."""

from __future__ import annotations

from dataclasses import dataclass

from core.config.settings import setting
from core.diffusion.guidance.branches import PARTS, Part
from core.diffusion.guidance.mixing import GuidanceKind
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GuideConfig:
    """Further guidance; its differences are added to that of `guidance`.

    Scales of single conditions act one after the other (2211.09800, eq. 3): frames beside nothing, the class
    beside frames, the text beside both.
    """

    frames: float | None = setting(
        None, "guidance scale of the given frames alone; null takes that of guidance", low=0
    )
    label: float | None = setting(
        None,
        "guidance scale of the class alone; null takes that of guidance; needs objective.text_dropout",
        low=0,
    )
    text: float | None = setting(
        None,
        "guidance scale of the text alone; null takes that of guidance; needs objective.text_dropout",
        low=0,
    )
    weak: float = setting(
        1.0, "autoguidance (2406.02507): scale of guidance away from a weaker network; 1 is off", low=0
    )
    skip: float = setting(
        1.0, "scale of guidance away from the network without skip_blocks (2411.18664); 1 is off", low=0
    )
    skip_blocks: tuple[int, ...] = setting((), "skip: blocks to leave out, counted from 0")
    classifier: float = setting(
        0.0, "scale of the gradient of a classifier of noisy latents (2105.05233); 0 is off", low=0
    )
    zero_steps: int = setting(
        0,
        "cfg_zero: number of first steps in which the state does not move and the network is not "
        "evaluated (2503.18886 takes 1)",
        low=0,
    )
    momentum: float = setting(
        0.0,
        "apg: share of the previous step's difference that is added to the current one; 2410.02416 takes "
        "-0.5",
        low=-0.99,
        high=0.99,
    )
    together: bool = setting(
        True,
        "evaluate a network under all conditions as one batch, as far as memory allows; false: one after "
        "another",
    )

    def __post_init__(self) -> None:
        if (self.skip != 1) != bool(self.skip_blocks):
            expected = "numbers of blocks with skip other than 1, and none with skip=1"
            raise UserError("skip_blocks", list(self.skip_blocks), expected)
        if any(number < 0 for number in self.skip_blocks):
            raise UserError("skip_blocks", list(self.skip_blocks), "numbers of blocks, counted from 0")

    @property
    def own_scales(self) -> dict[Part, float]:
        """Scales of single conditions."""
        return {part: float(scale) for part in PARTS if (scale := getattr(self, part)) is not None}

    def require_fitting(self, kind: GuidanceKind, scale: float, steps: int) -> None:
        """Refuse what a kind of guidance does not have.  scale: of guidance."""
        for name, owner in (("momentum", "apg"), ("zero_steps", "cfg_zero")):
            if (value := getattr(self, name)) and kind != owner:
                raise UserError(name, value, f"0 with guidance_kind={kind}; {owner} takes it")
        if self.zero_steps >= steps:
            raise UserError("zero_steps", self.zero_steps, f"fewer than steps={steps}")
        compared: dict[str, float] = {}
        for name in ("weak", "skip"):
            if (size := getattr(self, name)) != 1:
                compared[name] = size
        is_single = scale == 1 and len(compared) == 1
        for part, size in self.own_scales.items():
            compared[part] = size
        if kind != "cfg" and compared and not (is_single and not self.own_scales):
            name, size = compared.popitem()
            expected = f"nothing beside guidance_kind={kind}, which compares two outputs"
            raise UserError(name, size, expected)
