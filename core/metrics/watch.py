"""The timing hook of trainer and engine, by which a benchmark times the parts of a step during a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol


class Watch(Protocol):
    """Times steps, and the parts of them that are not this code; `Trainer.watch` puts it to work."""

    def step(self) -> AbstractContextManager[None]:
        """Return a context around each step of the loop."""
        ...

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, of a library or of the averages, with a clock around each call."""
        ...

    def around_release(self, function: Callable[..., Any]) -> Callable[..., None]:
        """Return the engine's `backward`, with a clock around the release of the loss and its graph."""
        ...


def stepped(step: Callable[..., None], watch: Watch) -> Callable[..., None]:
    """Return the function that takes a step of the loop, with the watch's context around each call."""

    def timed(*arguments: Any) -> None:
        with watch.step():
            step(*arguments)

    return timed


class TimedEngine:
    """DeepSpeed's engine, with a watch around every call into it."""

    def __init__(self, engine: Any, watch: Watch) -> None:
        self._engine, self._forward = engine, watch.around(engine)
        for name in ("backward", "step", "was_step_applied", "get_global_grad_norm"):
            call = partial(getattr(engine, name))  # wrapped by DeepSpeed, some without their name
            call.__qualname__ = f"DeepSpeedEngine.{name}"  # type: ignore[attr-defined]
            setattr(self, name, watch.around(call))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._forward(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
