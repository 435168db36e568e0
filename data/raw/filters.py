"""Filter samples by what they show: size, aspect ratio, duration, frame rate."""

from __future__ import annotations

from dataclasses import dataclass

from core.config.settings import setting
from core.errors import UserError
from data.media.formats import Media


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Filters for samples that could be used; 0 turns one off. Duration and rate concern videos."""

    min_side: int = setting(0, "least length of the shorter side", unit="pixels", low=0)
    max_side: int = setting(0, "greatest length of the longer side", unit="pixels", low=0)
    max_aspect: float = setting(0.0, "largest aspect ratio, longer side / shorter side", low=0)
    min_seconds: float = setting(0.0, "least duration of a video, or of a clip cut from one", unit="s", low=0)
    max_seconds: float = setting(
        0.0, "greatest duration of a video, or of a clip cut from one", unit="s", low=0
    )
    min_fps: float = setting(0.0, "lowest frame rate", unit="1/s", low=0)
    max_fps: float = setting(0.0, "highest frame rate", unit="1/s", low=0)

    def __post_init__(self) -> None:
        for low, high in (
            ("min_side", "max_side"),
            ("min_seconds", "max_seconds"),
            ("min_fps", "max_fps"),
        ):
            least, most = getattr(self, low), getattr(self, high)
            if most and least > most:
                raise UserError(low, least, f"at most {high}={most}")

    def reason(self, media: Media) -> str:
        """Return why this is not wanted, in words that are the same for all such samples.

        "" if it is wanted.
        """
        shorter, longer = sorted((media.width, media.height))
        checks = [
            (shorter < self.min_side, f"shorter side below {self.min_side} pixels"),
            (0 < self.max_side < longer, f"longer side above {self.max_side} pixels"),
            (0 < self.max_aspect < longer / shorter, f"aspect ratio above {self.max_aspect:g}"),
        ]
        if media.fps > 0:
            seconds = media.seconds
            checks += [
                (seconds < self.min_seconds, f"lasts less than {self.min_seconds:g} s"),
                (0 < self.max_seconds < seconds, f"lasts more than {self.max_seconds:g} s"),
                (media.fps < self.min_fps, f"below {self.min_fps:g} frames a second"),
                (0 < self.max_fps < media.fps, f"above {self.max_fps:g} frames a second"),
            ]
        return next((reason for applies, reason in checks if applies), "")
