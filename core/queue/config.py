"""Configuration of work that processes share: the section `queue`."""

from __future__ import annotations

from dataclasses import dataclass

from core.config.settings import setting
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """How workers share the units."""

    timeout_s: float = setting(
        60.0,
        "time without a sign of life after which another worker takes over a unit",
        unit="s",
        low=0.1,
        role="work",
    )
    heartbeat_s: float = setting(10.0, "time between two signs of life", unit="s", low=0.01, role="work")
    attempts: int = setting(
        3, "failures after which a unit is given up; lost workers do not count", low=1, role="work"
    )
    losses: int = setting(
        20,
        "a unit that lost more consecutive workers is suspect: it is tried last, and given up only if 3 "
        "of the workers had finished other units; starting the command again resets the count",
        low=0,
        role="work",
    )

    def __post_init__(self) -> None:
        if self.heartbeat_s > self.timeout_s / 2:
            raise UserError("heartbeat_s", self.heartbeat_s, f"at most half of timeout_s={self.timeout_s}")
