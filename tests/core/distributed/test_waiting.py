"""Run: pytest tests/core/distributed/test_waiting.py"""

from __future__ import annotations

import pytest

from core.distributed.waiting import Silence
from core.errors import PeerLost
from core.run.ends import kind_of
from tests.core.ranks import finish, fork_ranks

PROGRAM = "tests.core.distributed.waiting_run"
Ended = dict[str, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """How pairs of ranks have ended, whose collectives may last 2 s, by what they did; all at once."""
    folder = tmp_path_factory.mktemp("waiting")
    names = ("long_on_one", "failing", "dying", "leaving", "standing_still")
    started = {name: fork_ranks(2, folder / name, name, program=PROGRAM) for name in names}
    try:
        started["standing_still"][0].wait(120)
    finally:
        started["standing_still"][1].kill()
    return {name: finish(ranks) for name, ranks in started.items()}


@pytest.mark.multiprocess
def test_ranks_wait_longer_than_a_collective_may_last(ended: Ended) -> None:
    for status, text in ended["long_on_one"]:
        assert (status, text.splitlines()) == (0, ["first", "[0, 1] [0, 1]", "[0, 1]"]), text


@pytest.mark.multiprocess
def test_an_error_after_long_work_is_told_to_all(ended: Ended) -> None:
    assert ended["failing"] == [(0, "the disk is full\n")] * 2


@pytest.mark.multiprocess
def test_a_rank_that_stands_still_is_named(ended: Ended) -> None:
    (status, text), _ = ended["standing_still"]
    assert (status, "PeerLost: rank 1 has given no sign of life for" in text) == (1, True), text


@pytest.mark.multiprocess
@pytest.mark.parametrize("what", ["dying", "leaving"])
def test_a_rank_that_has_gone_is_noticed_at_once(ended: Ended, what: str) -> None:
    """Long before its signs of life would be missed."""
    (status, text), (_, other) = ended[what]
    assert (status, "by peer" in text, "PeerLost" in text) == (1, True, False), text
    assert ("rank 1 cannot go on" in other) == (what == "leaving")


class Signs:
    """Of two ranks that are watched, in place of the store."""

    watched, patience_s = range(1, 3), 30.0

    def __init__(self) -> None:
        self.now = [b"", b"7"]

    def signs(self) -> list[bytes]:
        return list(self.now)


def test_only_a_change_is_a_sign_of_life() -> None:
    signs, clock = Signs(), iter([0.0, 20.0, 40.0, 60.0, 91.0])
    silence = Silence(signs, lambda: next(clock))  # type: ignore[arg-type]
    silence.require_signs()
    signs.now = [b"1", b"8"]
    silence.require_signs()
    signs.now = [b"2", b"8"]
    silence.require_signs()
    signs.now = [b"3", b"8"]
    with pytest.raises(PeerLost, match="rank 2 has given no sign of life for 51 s") as found:
        silence.require_signs()
    assert kind_of(found.value) == "peer"
