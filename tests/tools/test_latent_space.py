"""The record that a run keeps of its latents. Run: pytest tests/tools/test_latent_space.py"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.config import PathRecord, path_record
from data.latent.normalising import Normaliser
from data.loading.sources.kinds import Conditions, LatentFacts, LatentSource
from tests.integration.tiny_run import make_autoencoder
from tools.runs.latent_space import describe, keep_latent_space
from tools.runs.normalisers import LatentsConfig
from tools.runs.space_record import read_space

IMAGE, CLIP, WIDE = (4, 1, 8, 8), (4, 5, 8, 8), (4, 1, 6, 10)


def source(
    counts: dict[tuple[int, ...], int], parts: int = 1, unlabelled: int = 1, textless: int | None = None
) -> LatentSource:
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
        made_from={"encoder": "e", "text": {"model": "t"}},
        longest_text=None,
    )
    known = Conditions(by_class=(3, 0), unlabelled=unlabelled, textless=textless)
    return cast(
        LatentSource,
        SimpleNamespace(
            facts=facts,
            sample_counts=lambda: list(counts.values()),
            conditions=lambda: known,
            encoded_with=lambda name: f"the {name} of encode",
        ),
    )


def described(
    counts: dict[tuple[int, ...], int],
    parts: int = 1,
    objective: ObjectiveConfig | None = None,
    *,
    text: bool = False,
    path: PathRecord | None = None,
    density: tuple[float, ...] = (),
    **known: Any,
) -> dict[str, Any]:
    normaliser, objective = Normaliser((0.0,) * 4, (1.0,) * 4), objective or ObjectiveConfig()
    found, kept = source(counts, parts, **known), {"text": text, "path": path, "density": density}
    return describe(found, objective, normaliser, LatentsConfig(), **kept)  # type: ignore[arg-type]


def test_densities_of_times_from_a_file_are_recorded() -> None:
    assert described({IMAGE: 1})["times"] is None
    assert described({IMAGE: 1}, density=(1.0, 2.5))["times"] == [1.0, 2.5]


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
            fps=None,
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


def test_a_run_goes_on_whatever_its_clips_are_said_to_play_at(tmp_path: Path) -> None:
    normaliser = Normaliser((0.0,) * 4, (1.0,) * 4)
    autoencoder = tmp_path / "autoencoder"
    make_autoencoder(autoencoder)
    for number, rates in enumerate(((), ((8.0, 4),), ((24.0, 2), (8.0, 2)), ())):
        found = source({CLIP: 4})
        cast(Any, found).facts = replace(found.facts, frame_rates=rates)
        for run in (tmp_path / "run", tmp_path / f"run {number}"):
            run.mkdir(exist_ok=True)
            keep_latent_space(run, found, autoencoder, ObjectiveConfig(), normaliser, LatentsConfig())
        assert read_space(run)["fps"] == (rates[0][0] if rates else None)
    assert read_space(tmp_path / "run")["fps"] is None  # as it was begun


@pytest.mark.parametrize("text", [True, False])
def test_the_text_encoder_is_recorded_where_the_network_takes_text(text: bool) -> None:
    kept = described({IMAGE: 4}, text=text, textless=1)
    assert kept["text"] == ({"model": "t"} if text else None)
    assert kept["text_folder"] == ("the text_encoder of encode" if text else "")
    assert kept["null_share"]["text"] == (pytest.approx(0.1 + 0.9 / 4) if text else None)


@pytest.mark.parametrize(
    ("dropout", "without", "samples", "expected"),
    [
        (0.1, 0, 4, 0.1),
        (0.1, 1, 4, 0.1 + 0.9 / 4),
        (0.0, 3, 4, 0.75),
        (0.0, 1, 1, 1.0),
        (0.3, None, 4, 0.3),
        (0.0, None, 4, None),
        (0.3, 0, 0, 0.3),
    ],
)
def test_the_share_trained_without_a_condition_is_what_is_dropped_and_what_has_none(
    dropout: float, without: int | None, samples: int, expected: float | None
) -> None:
    objective = ObjectiveConfig(label_dropout=dropout)
    kept = described({IMAGE: samples}, 1, objective, text=True, unlabelled=without, textless=without)
    assert kept["null_share"]["label"] == kept["null_share"]["text"] == pytest.approx(expected)


def test_the_path_that_the_run_has_settled_is_recorded() -> None:
    """Its parameters may come from a file that has changed since."""
    assert described({IMAGE: 4})["path"] == ObjectiveConfig().path
    settled = path_record("ddpm_cosine")
    kept = described({IMAGE: 4}, path=settled)
    assert (kept["path"], kept["schedule"]) == ("ddpm_cosine", settled.parameters())
