"""Places of the global random generator, known without drawing what lies before them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.first_values.mersenne_twister import skipped


class Course:
    """The 32-bit words that the global generator draws after a state, and the furthest state known of them.

    Parameters are made in the order in which they were drawn, so most begin where the one before has ended,
    and of equal blocks the skips to a rank's ranges are equally long.
    """

    def __init__(self, state: Tensor) -> None:
        self._first = self._known = (0, state)

    def state(self, words: int) -> Tensor:
        """Return the state `words` on."""
        before, state = self._known if self._known[0] <= words else self._first
        if words > before:
            self.reached(words, skipped(state, words - before))
            _, state = self._known
        return state

    def reached(self, words: int, state: Tensor) -> None:
        """Note the state `words` on."""
        self._known = (words, state)


@dataclass
class Place:
    """A place of the global generator: `words` 32-bit words along a course."""

    course: Course
    words: int = 0

    @classmethod
    def now(cls) -> Place:
        return cls(Course(torch.get_rng_state()))

    def later(self, words: int) -> Place:
        return Place(self.course, self.words + words)

    def arrive(self) -> None:
        """Set the global generator to it."""
        torch.set_rng_state(self.course.state(self.words))

    def arrived(self) -> None:
        """Note that the global generator is there."""
        self.course.reached(self.words, torch.get_rng_state())
