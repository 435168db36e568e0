"""No garbage collection while a program starts. Run: pytest tests/core/test_garbage.py"""

from __future__ import annotations

import gc

from core import garbage


def test_nothing_is_collected_meanwhile_and_what_exists_then_is_not_looked_at_again() -> None:
    collections: list[str] = []
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    kept = []
    try:
        with garbage.none_expected():
            kept = [[i] for i in range(5000)]  # enough for Python to collect by itself
            assert collections == []
        assert gc.isenabled()
        assert not any(found is kept[0] for found in gc.get_objects())
        kept += [[i] for i in range(5000)]
        assert collections != []
    finally:
        gc.callbacks.pop()
        gc.unfreeze()


def test_who_collects_by_hand_goes_on_doing_so() -> None:
    gc.disable()
    try:
        with garbage.none_expected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_it_is_put_off_where_it_was_on() -> None:
    with garbage.put_off():
        assert not gc.isenabled()
        with garbage.put_off():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
