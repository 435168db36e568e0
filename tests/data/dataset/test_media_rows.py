"""What is counted over the facts of a raw dataset's files."""

from __future__ import annotations

import numpy as np

from data.dataset.media_rows import MOST_RATES, frame_rates
from data.dataset.schema import MEDIA_DTYPE


def rows(*rates: tuple[int, int]) -> np.ndarray:
    media = np.zeros(len(rates), MEDIA_DTYPE)
    media["rate_num"], media["rate_den"] = zip(*rates, strict=True)
    return media


def test_rates_of_clips_come_most_frequent_first() -> None:
    media = rows((24, 1), (30000, 1001), (24, 1), (0, 1), (60, 1))
    are_clips = np.array([True, True, True, True, False])
    assert frame_rates(media, are_clips, fps=0, stride=1) == [[24.0, 2], [29.97, 1]]
    assert frame_rates(media, are_clips, fps=0, stride=2) == [[12.0, 2], [14.985, 1]]
    assert frame_rates(media, are_clips, fps=16, stride=2) == [[8.0, 3]]
    assert frame_rates(media, np.zeros(5, bool), fps=0, stride=1) == []


def test_of_many_rates_the_most_frequent_are_kept() -> None:
    media = rows(*((rate, 1) for rate in range(1, 30)), (29, 1))
    found = frame_rates(media, np.ones(30, bool), fps=0, stride=1)
    assert len(found) == MOST_RATES
    assert found[0] == [29.0, 2]
