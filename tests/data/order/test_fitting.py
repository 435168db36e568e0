"""What is said of samples that are brought to the shapes of their buckets."""

import numpy as np

from data.dataset.schema import MEDIA_DTYPE
from data.order.buckets import NO_BUCKET, Bucket
from data.order.fitting import fitting_lines


def pictures(*sizes: tuple[int, int]) -> np.ndarray:
    media = np.zeros(len(sizes), MEDIA_DTYPE)
    media["width"], media["height"] = np.array(sizes).T
    media["frames"] = 1
    return media


def test_what_is_cropped_and_enlarged_is_said_with_the_sample_that_loses_most() -> None:
    media, buckets = pictures((64, 64), (128, 64), (8, 16), (900, 10)), [Bucket(1, 32, 32), Bucket(1, 32, 64)]
    column = np.array([0, 0, 0, NO_BUCKET])
    assert list(fitting_lines(media, column, buckets)) == [
        "cropped to the shape of its bucket: 33.3% of a sample's area on average, 50.0% at most (sample 1)",
        "enlarged to cover its bucket: 1 sample, 4 times at most (sample 2)",
    ]


def test_nothing_is_said_where_nothing_is_cut_or_enlarged() -> None:
    assert not list(fitting_lines(pictures((64, 32), (128, 64)), np.zeros(2, int), [Bucket(1, 32, 64)]))
    assert not list(fitting_lines(pictures((1, 1))[:0], np.zeros(0, int), [Bucket(1, 32, 64)]))
