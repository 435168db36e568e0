"""What ends a job in one line on standard error: two kinds of failure, and an early end, which is none."""

from __future__ import annotations

CONTINUABLE = 75
"""Exit status of a run that ended early, where the same command continues it: EX_TEMPFAIL of sysexits.h."""


PEER_LOST = 76
"""Exit status of a rank that fails only because another rank did: EX_PROTOCOL of sysexits.h."""


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


class StorageError(WorkError):
    """Storage stayed out of reach after every attempt: it says nothing of the data that lie there."""


class EndedEarly(Exception):
    """A signal asked the run to end; the same command continues it; exit status CONTINUABLE."""
