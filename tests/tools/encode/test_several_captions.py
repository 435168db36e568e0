"""Several captions of a sample, from files to batches; captions that are cut; latents that float16 rounds."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.distributed.ranks import World
from core.draws import Draws
from core.errors import UserError
from data.dataset.cache_notes import cache_notes
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import CAPTION_ROWS, CAPTION_SPANS
from data.latent.text_reading import Captions
from data.latent.texts import RowTexts
from data.loading.loader import LatentLoader
from data.loading.sources.cached import CachedLatents
from data.loading.sources.mixed import MixedLatents
from data.order.caption_choice import CaptionConfig, choose
from data.order.steps import LoaderConfig
from data.reindexing.reindex import reindex
from launch import cli
from models.text import encoders
from tests.data.samples import image_bytes, picture
from tests.models.public_models import save_text_encoder
from tests.tools.encode.encode_runs import captioned_config, content, make_autoencoder
from tools.encode import job as encode
from tools.runs.encoders import CaptionEmbedder, Clock
from tools.shard import job as shard

ROWS: list[dict[str, Any]] = [
    {
        "captions": {"short": "a dog", "long": "a brown dog on grass"},
        "caption_weights": {"short": 1, "long": 3},
    },
    {"captions": {"short": "a cat", "long": "a dog"}},
    {"captions": {"short": "a dog"}},
    {},
    {"captions": {"short": "one", "long": "two"}, "caption_weights": {"short": 0, "long": 1}},
    {"captions": ["a", "a b", "a b c d e f g h i j"]},
]
STEPS = LoaderConfig(group_size=6, groups_per_step=1, rank_multiple=1)
CPU = torch.device("cpu")


def make_raw(folder: Path, rows: list[dict[str, Any]]) -> None:
    files = folder / "files"
    files.mkdir(parents=True)
    for number, row in enumerate(rows):
        (files / f"{number}.png").write_bytes(image_bytes(picture(16, 16, seed=number)))
        (files / f"{number}.json").write_text(json.dumps(row))
    shard.run(shard.Config(source=str(files), output=str(folder / "raw"), samples_per_shard=4, shuffle=False))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("several")
    make_raw(folder, ROWS)
    make_autoencoder(folder / "autoencoder")
    save_text_encoder(folder / "t5", "T5EncoderModel")
    return folder


def config(sources: Path, output: Path, **fields: Any) -> encode.Config:
    return captioned_config(sources, output, **{"text_tokens": 6, **fields})


@pytest.fixture(scope="module")
def cache(sources: Path) -> Dataset:
    encode.run(config(sources, sources / "cache"))
    return Dataset(sources / "cache")


def test_captions_that_are_not_embedded_are_said(sources: Path, tmp_path: Path) -> None:
    lines = encode.plan(config(sources, tmp_path / "cache", text_encoder=""))
    assert any(
        line.startswith("warning: 5 of 6 samples have a caption, which text_encoder=''") for line in lines
    )
    assert not any("warning" in line for line in encode.plan(config(sources, tmp_path / "cache")))


def captions_of(row: dict[str, Any]) -> list[str]:
    captions = row.get("captions", [])
    return list(captions.values()) if isinstance(captions, dict) else captions


def loader_of(
    cache: Dataset, rank: int = 0, ranks: int = 1, choice: CaptionConfig | None = None
) -> LatentLoader:
    world = World(rank, ranks, rank, CPU)
    return LatentLoader([cache], STEPS, world, 5, captions=choice or CaptionConfig())


def texts_of(loader: LatentLoader, step: int) -> dict[int, torch.Tensor]:
    """Return the text of every sample of a step, without padding."""
    found = {}
    for batch in loader.load(step):
        condition = batch.condition
        assert condition.text is not None
        assert condition.text_length is not None
        lengths = condition.text_length.tolist()
        rows = zip(batch.id.tolist(), condition.text, lengths, strict=True)
        found |= {row: text[:length] for row, text, length in rows}
    return found


def test_all_captions_are_stored_and_each_distinct_one_once_a_part(sources: Path, cache: Dataset) -> None:
    cache.verify()
    captions, encoder = Captions(cache.folder, cache.manifest), encoders.load(sources / "t5", 6)
    for row, given in enumerate(ROWS):
        texts = captions_of(given)
        lengths = [len(tokens) for tokens in encoder(texts)] if texts else []
        assert captions.of(row)["tokens"].tolist() == lengths
        names = list(given["captions"]) if isinstance(given.get("captions"), dict) else [""] * len(texts)
        assert [captions.name(one) for one in captions.of(row)] == names
    assert captions.of(0)["weight"].tolist() == [1, 3]
    dogs = [captions.of(0)[0], captions.of(1)[1], captions.of(2)[0]]
    assert len({int(one["offset"]) for one in dogs}) == 1
    expected = {"rows": 10, "most": 3, "several": 4, "names": ["", "long", "short"]}
    assert cache.manifest.extra["captions"] == expected
    assert json.loads((cache.folder / "dataset.json").read_text())["format_version"] == 2


def test_a_draw_is_of_sample_and_step_for_any_number_of_ranks(cache: Dataset) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    alone = loader_of(cache)
    shared = [[loader_of(cache, rank, ranks) for rank in range(ranks)] for ranks in (2, 3)]
    for step in range(60):
        whole = texts_of(alone, step)
        for loaders in shared:
            parts: dict[int, torch.Tensor] = {}
            for loader in loaders:
                parts |= texts_of(loader, step)
            assert parts.keys() == whole.keys()
            assert all(torch.equal(parts[row], whole[row]) for row in whole)
        seen.update((row, len(text)) for row, text in whole.items())
    captions = Captions(cache.folder, cache.manifest)
    for row in (0, 1, 4, 5):
        lengths = captions.of(row)["tokens"].tolist()
        drawn = {length for at, length in seen if at == row}
        assert drawn == ({lengths[1]} if row == 4 else set(lengths))
    short, long = captions.of(0)["tokens"].tolist()
    assert seen[0, long] > 2 * seen[0, short]
    assert seen[3, 0] == 60  # no caption


def test_names_and_weights_choose(cache: Dataset, tmp_path: Path) -> None:
    captions = Captions(cache.folder, cache.manifest)
    long = CaptionConfig(caption_key="long")
    for step in range(4):
        found = texts_of(loader_of(cache, choice=long), step)
        assert [len(found[row]) for row in (0, 1)] == [int(captions.of(row)[1]["tokens"]) for row in (0, 1)]
        assert [len(found[row]) for row in (2, 3, 5)] == [0, 0, 0]
        first = texts_of(loader_of(cache, choice=CaptionConfig(caption_weights=(1, 0))), step)
        assert len(first[0]) == int(captions.of(0)[0]["tokens"])
    (line,) = CachedLatents(cache).check_captions(long)
    assert "2 samples" in line
    assert "train without" in line
    assert CachedLatents(cache).check_captions(CaptionConfig()) == []
    other = Dataset(shutil.copytree(cache.folder, tmp_path / "other"))
    for source in (CachedLatents(cache), MixedLatents([cache, other])):
        with pytest.raises(UserError, match=r"caption_key=long\+lnog: expected names of captions: long"):
            source.check_captions(CaptionConfig(caption_key="long+lnog"))


def test_online_draws_what_a_cache_would(sources: Path, cache: Dataset) -> None:
    embedder = CaptionEmbedder(sources / "t5", 6, CPU, "fp32", Clock())
    texts = RowTexts(Dataset(sources / "raw"), embedder)
    loader = loader_of(cache)
    for step in range(8):
        whole = texts_of(loader, step)
        (batch,) = loader.load(step)
        draws = Draws(5, step, batch.id, batch.position)
        tokens, lengths, refused = texts.gather(batch.id.tolist(), draws=draws)
        assert refused == {}
        for row, found, length in zip(batch.id.tolist(), tokens, lengths.tolist(), strict=True):
            assert torch.allclose(found[:length].float(), whole[row].float(), atol=2e-3)


def test_tables_of_captions_are_made_again_and_damage_is_found(sources: Path, tmp_path: Path) -> None:
    encode.run(config(sources, tmp_path / "cache"))
    before = content(tmp_path / "cache")
    for name in (CAPTION_SPANS, CAPTION_ROWS):
        (tmp_path / "cache" / name).unlink()
    assert reindex(tmp_path / "cache").changed == ()
    assert content(tmp_path / "cache") == before
    (tmp_path / "cache" / CAPTION_ROWS).write_bytes(b"damaged")
    encode.run(config(sources, tmp_path / "cache", action="repair"))
    assert content(tmp_path / "cache") == before


def test_cut_captions_are_counted_and_said(
    sources: Path, cache: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = cache.manifest.extra["cut_captions"]
    assert (cut["limit"], cut["captions"], cut["cut"], cut["longest"]) == (6, 10, 1, 11)
    assert cli.main(["inspect", str(cache.folder), "sample=5"]) == 0
    said = capsys.readouterr().out
    assert "warning: 1 of 10 captions (10.0%) were cut at the limit of 6 tokens" in said
    assert "the longest has 11 tokens" in said
    assert "sample 5: captions: 3" in said
    assert cli.main(["inspect", str(sources / "raw"), "sample=0"]) == 0
    said = capsys.readouterr().out
    assert "1 short, drawn 25.0%: a dog" in said
    assert "2 long, drawn 75.0%: a brown dog on grass" in said


def test_one_caption_a_sample_gives_a_cache_of_the_first_version(sources: Path, tmp_path: Path) -> None:
    make_raw(tmp_path, [{"caption": "a"}, {"caption": "b"}])
    encode.run(config(sources, tmp_path / "cache", source=str(tmp_path / "raw")))
    manifest = json.loads((tmp_path / "cache" / "dataset.json").read_text())
    assert manifest["format_version"] == 1
    assert not {CAPTION_SPANS, CAPTION_ROWS} & manifest["files"].keys()
    assert "captions" not in manifest["extra"]["made_from"]


def test_float32_is_stored_exactly(sources: Path, tmp_path: Path) -> None:
    half, single = (config(sources, tmp_path / d, dtype=d, flip=True) for d in ("float16", "float32"))
    for each in (half, single):
        encode.run(each)
    caches = [Dataset(each.output) for each in (half, single)]
    assert caches[0].manifest.fingerprint != caches[1].manifest.fingerprint
    caches[1].verify()
    a, b = (LatentLoader([c], STEPS, World(0, 1, 0, CPU), 5).load(2)[0].x for c in caches)
    assert (a.dtype, b.dtype) == (torch.float16, torch.float32)
    assert torch.equal(a, b.half())
    assert not torch.equal(a.float(), b)
    mixed = MixedLatents(caches).loader(STEPS, World(0, 1, 0, CPU), 0)
    assert {batch.x.dtype for step in range(8) for batch in mixed.load(step)} == {a.dtype, b.dtype}
    before = content(single.output)
    (single.output / "index.npy").unlink()
    assert reindex(single.output).changed == ()
    assert content(single.output) == before
    assert cli.main(["inspect", str(single.output), f"sheet={tmp_path / 'sheet.png'}"]) == 0
    with pytest.raises(UserError, match="dtype"):
        encode.run(config(sources, single.output, flip=True))


@pytest.mark.parametrize(
    ("mean", "std", "dtype", "warned"),
    [(8.0, 0.001, "float16", True), (0.0, 1.0, "float16", False), (8.0, 0.2, "float16", False),
     (-8.0, 0.1, "float16", True), (8.0, 0.001, "float32", False)],
)  # fmt: skip
def test_channels_that_float16_cannot_hold_are_named(
    mean: float, std: float, dtype: str, warned: bool
) -> None:
    statistics = {"mean": [0.0, mean], "std": [1.0, std]}
    extra = {"made_from": {"encoder": "a", "dtype": dtype}, "statistics": statistics}
    lines = cache_notes(DatasetManifest(kind="latent", fingerprint="f", shards=(), extra=extra))
    assert ["latent channel 1 spreads over" in line for line in lines] == [True] * warned
    values = np.random.default_rng(0).normal(8, 0.001, 10_000)
    assert len(np.unique(values.astype(np.float16))) <= 2


@pytest.mark.parametrize(
    ("weights", "u", "place"),
    [([1.0, 3.0], 0.2, 0), ([1.0, 3.0], 0.26, 1), ([0.0, 1.0, 0.0], 1 - 2**-24, 1), ([0.0], 0.5, None),
     ([], 0.5, None), ([1.0, 0.0], 1 - 2**-24, 0)],
)  # fmt: skip
def test_choosing_by_weights(weights: list[float], u: float, place: int | None) -> None:
    assert choose(weights, u) == place


@pytest.mark.parametrize(
    ("key", "weights", "message"),
    [
        ("", (0.0, 0.0), "not all 0"),
        ("", (-1.0,), "numbers from 0 on"),
        ("a+b", (1.0,), "2 numbers, one a name"),
    ],
)
def test_weights_that_cannot_be_are_refused(key: str, weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CaptionConfig(caption_key=key, caption_weights=weights)
