"""The two kinds of failure a person sees; both become one line on standard error."""

from __future__ import annotations


class UserError(ValueError):
    """A person's mistake, found before or while work starts; exit status 2.

    `UserError("engine.zero_stage", 4, "0, 1, 2 or 3")` reads `engine.zero_stage=4: expected 0, 1, 2 or 3`.
    With one argument the text is shown as it is.
    """

    def __init__(self, field: str, value: object = None, expected: str | None = None) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(field if expected is None else f"{field}={value}: expected {expected}")


class WorkError(RuntimeError):
    """The work itself failed (disk, damaged data over the budget, a dead rank); exit status 1."""
