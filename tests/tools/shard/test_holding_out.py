"""Held-out samples: which they are, and that both parts are the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from data.media.images import encode_png
from data.raw.ingest import Listing, list_source
from tools.shard.holding_out import part_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(100):
            picture = np.full((4, 4, 3), number, np.uint8)
            (tmp_path / name / f"{number:03d}.png").write_bytes(encode_png(picture))
            (tmp_path / name / f"{number:03d}.txt").write_text(f"picture {number}")
    return tmp_path


def names(listing: Listing) -> set[str]:
    return {item.name for item in listing.items}


def test_the_parts_are_disjoint_and_make_up_the_whole(source: Path) -> None:
    whole = list_source(source)
    train, held_out = (part_of(whole, part, 0.2) for part in ("train", "held_out"))
    assert names(train) | names(held_out) == names(whole)
    assert not names(train) & names(held_out)
    assert 20 <= len(held_out.items) <= 60  # 200 draws of 0.2
    assert held_out.classes == train.classes == ("cats", "dogs")
    assert held_out.texts == held_out.labels == len(held_out.items)
    assert held_out.said[-1] == f"part=held_out: {len(held_out.items)} of 200 samples (held_out=0.2)"
    assert {item.label for item in held_out.items} == {0, 1}


def test_a_sample_stays_held_out_in_a_folder_that_grows(source: Path) -> None:
    before = names(part_of(list_source(source), "held_out", 0.2))
    (source / "cats/a new one.png").write_bytes((source / "cats/000.png").read_bytes())
    (source / "cats/a new one.txt").write_text("new")
    assert before <= names(part_of(list_source(source), "held_out", 0.2))


def test_all_is_the_listing_itself_and_no_part_may_be_empty(source: Path) -> None:
    whole = list_source(source)
    assert part_of(whole, "all", 0.5) is whole
    with pytest.raises(UserError, match=r"part=held_out: expected all: with held_out=0 it has none"):
        part_of(whole, "held_out", 0.0)
