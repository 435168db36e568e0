"""The record that a run keeps of its latents. Run: pytest tests/tools/test_latent_space.py"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.diffusion.objective import ObjectiveConfig
from data.latent.normalising import Normaliser
from data.loading.sources.kinds import Conditions, LatentFacts, LatentSource
from tools.runs.latent_space import describe
from tools.runs.normalisers import LatentsConfig

IMAGE, CLIP, WIDE = (4, 1, 8, 8), (4, 5, 8, 8), (4, 1, 6, 10)


def source(counts: dict[tuple[int, ...], int], parts: int = 1) -> LatentSource:
    """Return a source whose buckets have these numbers of samples."""
    shapes = tuple((2, *shape) for shape in counts)
    facts = LatentFacts(
        place="cache",
        fingerprint="f",
        parts={f"cache {number}": str(number) for number in range(parts)},
        samples=sum(counts.values()),
        classes=("a", "b"),
        shapes=cast(Any, shapes),
        batch_shapes=cast(Any, shapes),
        made_from={"encoder": "e"},
        longest_text=None,
    )
    known = Conditions(by_class=(3, 0), unlabelled=1, textless=None)
    return cast(
        LatentSource,
        SimpleNamespace(facts=facts, sample_counts=lambda: list(counts.values()), conditions=lambda: known),
    )


def described(counts: dict[tuple[int, ...], int], parts: int = 1) -> dict[str, Any]:
    normaliser = Normaliser((0.0,) * 4, (1.0,) * 4)
    return describe(source(counts, parts), ObjectiveConfig(), normaliser, LatentsConfig(), text=False)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({IMAGE: 5, CLIP: 3, WIDE: 1}, [IMAGE, CLIP, WIDE]),
        ({IMAGE: 1, CLIP: 3, WIDE: 5}, [WIDE, CLIP, IMAGE]),
        ({CLIP: 2, IMAGE: 7, WIDE: 2}, [IMAGE, CLIP, WIDE]),
    ],
)
def test_the_shape_of_most_samples_comes_first(
    counts: dict[tuple[int, ...], int], expected: list[tuple[int, ...]]
) -> None:
    """`sample` makes samples of the first one that has as many frames as are asked for."""
    assert described(counts)["shapes"] == [list(shape) for shape in expected]


def test_buckets_of_one_shape_are_counted_together() -> None:
    """Two caches in a mixture have such buckets; one alone has fewer samples than the clips."""
    both = source({IMAGE: 4, CLIP: 5})
    doubled = (*both.facts.shapes, (2, *IMAGE))
    mixed = SimpleNamespace(
        facts=SimpleNamespace(
            latent_shapes=[shape[1:] for shape in doubled],
            **{name: getattr(both.facts, name) for name in ("classes", "parts", "samples", "fingerprint")},
            encoder="e",
            text_encoder=None,
        ),
        conditions=both.conditions,
        sample_counts=lambda: [4, 5, 4],
    )
    normaliser = Normaliser((0.0,) * 4, (1.0,) * 4)
    kept = describe(cast(Any, mixed), ObjectiveConfig(), normaliser, LatentsConfig(), text=False)
    assert kept["shapes"] == [list(IMAGE), list(CLIP)]


def test_caches_and_classes_are_told() -> None:
    assert described({IMAGE: 4})["cache"] == "f"
    assert described({IMAGE: 4}, parts=2)["cache"] == {"cache 0": "0", "cache 1": "1"}
    assert described({IMAGE: 4})["untrained_classes"] == ["b"]
