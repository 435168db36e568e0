"""Exceptions that end a job with one line on standard error: UserError (2), WorkError (1), EndedEarly (75).

A function names the fields of the section that it takes; its caller knows where that section stands in the
job's config, and adds the path (`below`). So the same refusal reads `device=cuda` of one job and
`engine.device=cuda` of another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

CONTINUABLE = 75
"""Exit status of a run that ended early, where the same command continues it: EX_TEMPFAIL of sysexits.h."""


PEER_LOST = 76
"""Exit status of a rank that fails only because another rank did: EX_PROTOCOL of sysexits.h."""


class UserError(ValueError):
    """A user's mistake, found before or while work starts; exit status 2.

    `UserError("engine.zero_stage", 4, "0, 1, 2 or 3")` reads `engine.zero_stage=4: expected 0, 1, 2 or 3`.
    With one argument the text is shown as it is.
    """

    def __init__(self, field: str, value: object = None, expected: str | None = None) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(field if expected is None else f"{field}={value}: expected {expected}")


@contextlib.contextmanager
def below(section: str) -> Iterator[None]:
    """Put the path of a section before the field that a UserError of the block names."""
    try:
        yield
    except UserError as error:
        if error.expected is None:  # a sentence without a field
            raise
        raise UserError(f"{section}.{error.field}", error.value, error.expected) from None


@contextlib.contextmanager
def renamed(fields: Mapping[str, str]) -> Iterator[None]:
    """Name fields of a UserError of the block as the job calls them: {name there: name here}."""
    try:
        yield
    except UserError as error:
        if error.expected is None or error.field not in fields:
            raise
        raise UserError(fields[error.field], error.value, error.expected) from None


def require_all(*problems: tuple[str, object, str] | None) -> None:
    """Raise one UserError that names every (field, value, expected) given; None is no problem."""
    found = [problem for problem in problems if problem is not None]
    if found:
        (field, value, expected), *others = found
        also = "".join(f"; and {name}={given}: expected {wanted}" for name, given, wanted in others)
        raise UserError(field, value, expected + also)


class WorkError(RuntimeError):
    """The work itself failed (disk, damaged data over the budget, a dead rank); exit status 1."""


class StorageError(WorkError):
    """Storage stayed out of reach after every attempt: it says nothing of the data that lie there."""


class RankFailed(WorkError):
    """This rank failed at what ranks compute together, so that none of them can go on."""


class PeerLost(RuntimeError):
    """Another rank has died or stands still; exit status PEER_LOST."""


class EndedEarly(Exception):
    """A signal asked the run to end; the same command continues it; exit status CONTINUABLE."""
