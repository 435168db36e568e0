"""Captions in a cache: embedded once, found by row, padded alike everywhere, damage named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.distributed.ranks import World
from core.errors import UserError, WorkError
from core.files import sha256_file
from data.dataset.blocks import Table
from data.dataset.index import Dataset
from data.dataset.schema import TEXT_DTYPE, write_index
from data.latent.assembly import text_facts
from data.latent.pack_reading import read_part, scan_part
from data.latent.pack_rows import index_rows, text_rows
from data.latent.packs import LATENT_DTYPE, Pack, Text, write_part
from data.latent.parts import Parts
from data.latent.text_reading import TextReader
from data.latent.texts import NOT_FINITE, RowTexts, ShardTexts
from data.loading.loader import LatentLoader
from data.loading.sources.mixed import MixedLatents
from data.order.steps import LoaderConfig
from data.reindexing.from_parts import scanned, views_from_parts
from tests.data.caches import CLIP, IMAGE, make_cache, packs_of

SHAPES = [IMAGE, CLIP, IMAGE, IMAGE, IMAGE, IMAGE, CLIP]
WIDTH, ABSENT = 3, 2


def tokens_of(row: int) -> int:
    """Return the number of tokens of a row: rows 0, 4 have no text; 1 and 5 share a caption."""
    return row % 4


def caption(row: int) -> np.ndarray:
    return np.full((tokens_of(row), WIDTH), row % 4, LATENT_DTYPE) + np.arange(WIDTH, dtype=LATENT_DTYPE)


def with_text(packs: list[Pack]) -> list[Pack]:
    """Return the packs of a part with text, each caption in the first that has it."""
    starts, rows, done = {0: 0}, 0, []
    for pack in packs:
        new = sorted({tokens_of(int(row)) for row in pack.ids} - starts.keys())
        for count in new:
            starts[count], rows = rows, rows + count
        ranges = [(starts[tokens_of(row)], tokens_of(row)) for row in pack.ids.tolist()]
        tokens = np.concatenate([caption(0), *map(caption, new)])
        done.append(replace(pack, text=Text(tokens, np.array(ranges, np.uint32))))
    return done


def make_text_cache(folder: Path, *, encoder: str = "t") -> Dataset:
    """Return one shard of pictures and clips with text; row 2 is absent."""
    make_cache(folder, [SHAPES], [ABSENT])
    manifest = Dataset(folder).manifest
    path = folder / manifest.shards[0].name
    places = write_part(path, 0, with_text(packs_of(0, SHAPES, [ABSENT])))
    index = index_rows(path, places, shard=0, first=0, buckets=[IMAGE, CLIP])
    texts = text_rows(places, index)
    record = replace(manifest.shards[0], bytes=path.stat().st_size, sha256=sha256_file(path))
    made_from = {"encoder": "a", "text": {"encoder": encoder, "width": WIDTH, "tokens": 8}}
    replace(
        manifest,
        shards=(record,),
        files=write_index(folder, index, texts=texts),
        extra={**manifest.extra, "made_from": made_from, **text_facts(texts)},
    ).write(folder)
    return Dataset(folder)


@pytest.fixture
def cache(tmp_path: Path) -> Dataset:
    return make_text_cache(tmp_path / "cache")


def reader_of(cache: Dataset) -> TextReader:
    return TextReader(cache.folder, cache.manifest, Parts(cache.folder, cache.manifest))


def test_the_text_of_every_row_is_found_and_padded_to_the_longest(cache: Dataset) -> None:
    rows = np.array([5, 0, 3, ABSENT, 1])
    tokens, lengths = reader_of(cache).gather(rows, np.zeros(5, np.int64))
    assert lengths.tolist() == [1, 0, 3, 0, 1]
    assert tokens.shape == (5, 3, WIDTH)
    for row, found, length in zip(rows.tolist(), tokens.numpy(), lengths.tolist(), strict=True):
        assert (found[:length] == caption(row)[:length]).all()
        assert (found[length:] == 0).all()


def test_rows_without_text_are_zeros(cache: Dataset) -> None:
    rows = np.array([0, ABSENT, 0])
    tokens, lengths = reader_of(cache).gather(rows, np.zeros(3, np.int64))
    assert lengths.tolist() == [0, 0, 0]
    assert not tokens.any()


@pytest.mark.parametrize(("column", "value"), [("tokens", 4), ("offset", 2**33)])
def test_text_outside_of_its_part_is_named(cache: Dataset, column: str, value: int) -> None:
    reader = reader_of(cache)
    texts = np.array(reader._texts)
    texts[column][3] = value
    reader._texts = Table(texts, None)
    with pytest.raises(WorkError, match=r"text.npy: row 3 points outside of its part"):
        reader.gather(np.array([5, 3]), np.zeros(2, np.int64))


def test_equal_captions_of_a_part_are_stored_once(cache: Dataset) -> None:
    packs = list(read_part(cache.shard_path(0)))
    texts = [pack.text for pack in packs if pack.text is not None]
    assert [len(text.tokens) for text in texts] == [1 + 3, 2]  # row 1 of the clips shares that of picture 5
    tokens = np.concatenate([text.tokens for text in texts])
    for pack, text in zip(packs, texts, strict=True):
        for row, (first, count) in zip(pack.ids.tolist(), text.ranges.tolist(), strict=True):
            assert (tokens[first : first + count] == caption(row)).all()


def test_stock_webdataset_reads_text_too(cache: Dataset) -> None:
    import webdataset

    found = list(webdataset.WebDataset(str(cache.shard_path(0)), shardshuffle=False).decode())
    packs = list(read_part(cache.shard_path(0)))
    assert [sample["__key__"] for sample in found] == ["000000-0000", "000000-0001"]
    for sample, pack in zip(found, packs, strict=True):
        assert pack.text is not None
        assert (sample["text.npy"] == pack.text.tokens).all()
        assert (sample["text_rows.npy"] == pack.text.ranges).all()


def test_the_sidecar_can_be_made_again_from_the_parts(cache: Dataset) -> None:
    flips, texts = views_from_parts(scanned(cache.folder, cache.manifest.shards, np.asarray(cache.index)))
    assert flips is None
    assert texts is not None
    assert (texts == np.load(cache.folder / "text.npy")).all()
    assert texts.dtype == TEXT_DTYPE
    cache.verify()


@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_carry_text_of_one_shape(cache: Dataset, ranks: int) -> None:
    config = LoaderConfig(group_size=4, groups_per_step=2, rank_multiple=2)
    shapes = set()
    for rank in range(ranks):
        loader = LatentLoader([cache], config, World(rank, ranks, rank, torch.device("cpu")), 0)
        for batch in (batch for step in range(4) for batch in loader.load(step)):
            condition = batch.condition
            assert condition.text is not None
            assert condition.text_length is not None
            expected = [tokens_of(row) * (row != ABSENT) for row in batch.id.tolist()]
            assert condition.text_length.tolist() == expected
            assert (condition.text.abs().sum(-1) > 0).sum(1).tolist() == expected
            shapes.add(tuple(condition.text.shape[1:]))
    assert shapes == {(3, WIDTH)}
    silent = LatentLoader([cache], config, World(0, 1, 0, torch.device("cpu")), 0, text=False)
    assert silent.load(0)[0].condition.text is None


def test_caches_of_two_text_encoders_are_not_mixed(cache: Dataset, tmp_path: Path) -> None:
    other = make_text_cache(tmp_path / "other", encoder="u")
    with pytest.raises(UserError, match=r"cannot be mixed: text.encoder is t in the first and u in the sec"):
        MixedLatents([cache, other])
    assert MixedLatents([cache, other], text=False).facts.samples == 2 * len(SHAPES)


def test_text_is_padded_to_the_longest_of_all_that_are_mixed(cache: Dataset, tmp_path: Path) -> None:
    other = make_text_cache(tmp_path / "other")
    extra = {**other.manifest.extra, "longest_text": 7}
    other.manifest = replace(other.manifest, extra=extra)
    config = LoaderConfig(group_size=4, groups_per_step=2, rank_multiple=2)
    mixture = MixedLatents([cache, other])
    loader = mixture.loader(config, World(0, 1, 0, torch.device("cpu")), 0)
    batches = [batch for step in range(4) for batch in loader.load(step)]
    assert {batch.source for batch in batches} == {cache.place, other.place}
    assert {batch.condition.text.shape[1] for batch in batches} == {7} == {mixture.facts.text_shape[0]}


def test_damage_is_named(cache: Dataset) -> None:
    row = 3
    offset = int(np.load(cache.folder / "text.npy")["offset"][row])
    with open(cache.shard_path(0), "r+b") as file:
        file.seek(offset)
        file.write(np.array([np.nan], LATENT_DTYPE).tobytes())
    with pytest.raises(WorkError, match=r"000000.tar: damaged, the text of 3 is not finite"):
        reader_of(cache).gather(np.array([row]), np.zeros(1, np.int64))
    with pytest.raises(WorkError, match=r"text.npy holds values that are not finite"):
        list(read_part(cache.shard_path(0)))
    (cache.folder / "text.npy").write_bytes(b"no array")
    with pytest.raises(WorkError, match=r"text.npy: not readable"):
        reader_of(cache)


@pytest.mark.parametrize("number", [0, 1])
def test_rows_outside_of_the_text_or_in_two_packs_are_damage(tmp_path: Path, number: int) -> None:
    """Moved by one row, the text of a picture reaches into the next pack, and that of a clip behind all."""
    packs = with_text(packs_of(0, SHAPES, [ABSENT]))
    text = packs[number].text
    assert text is not None
    moved = text.ranges + np.array([1, 0], np.uint32)
    packs[number] = replace(packs[number], text=replace(text, ranges=moved))
    write_part(tmp_path / "part.tar", 0, packs)
    with pytest.raises(WorkError, match="the rows of a sample's text do not lie in one of its packs"):
        scan_part(tmp_path / "part.tar")


class Captions:
    """Rows whose captions are given; embeds a caption as its letters."""

    width, tokens = 1, 8

    def __init__(self, *captions: str) -> None:
        self.captions, self.asked = captions, []

    def read(self, row: int) -> dict[str, bytes]:
        return {"png": b"", "json": b"{}", "txt": self.captions[row].encode()}

    def count_tokens(self, captions: list[str]) -> list[int]:
        return [len(caption) for caption in captions]

    def encode_captions(self, captions: list[str]) -> list[Tensor]:
        self.asked.append(captions)
        return [torch.tensor([[float("inf") if c == "!" else ord(c)] for c in text]) for text in captions]


def test_a_caption_of_a_shard_is_embedded_once_and_what_is_not_finite_is_refused() -> None:
    source = Captions("ab", "", "c", "ab", "!", "c", "d", "!")
    texts = ShardTexts(source, source, 2)  # type: ignore[arg-type]
    text, refused = texts.pack([0, 1, 2, 3, 4])
    assert text.tokens[:, 0].tolist() == [ord(c) for c in "abc"]
    assert text.ranges.tolist() == [[0, 2], [0, 0], [2, 1], [0, 2]]
    assert refused == {4: NOT_FINITE}
    text, refused = texts.pack([5, 6, 7])
    assert text.tokens[:, 0].tolist() == [ord("d")]
    assert text.ranges.tolist() == [[2, 1], [3, 1]]
    assert refused == {7: NOT_FINITE}
    assert source.asked == [["ab", "c"], ["!"], ["d"]]
    text, _ = texts.pack([1])
    assert text.tokens.shape == (0, 1)


def test_captions_of_rows_are_padded_to_the_encoder_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Captions("ab", "", "ab", "!", "c")
    texts = RowTexts(source, source)  # type: ignore[arg-type]
    tokens, lengths, refused = texts.gather([0, 1, 2, 3])
    assert tokens.shape == (4, Captions.tokens, 1)
    assert lengths.tolist() == [2, 0, 2, 0]
    assert tokens[..., 0].tolist() == [[97, 98, *[0] * 6], [0] * 8, [97, 98, *[0] * 6], [0] * 8]
    assert refused == {3: NOT_FINITE}
    texts.gather([4, 0])
    assert source.asked == [["ab", "!"], ["c"]]
    monkeypatch.setattr("data.latent.texts.KEPT_BYTES", 0)
    texts.gather([0])
    texts.gather([4])
    assert source.asked[2:] == [["c"]]


def test_an_error_of_the_program_in_a_caption_concerns_its_sample_alone() -> None:
    class Broken(Captions):
        def read(self, row: int) -> dict[str, bytes]:
            return {"json": None} if row == 1 else super().read(row)  # type: ignore[dict-item]

    source = Broken("ab", "c", "d")
    texts, online = ShardTexts(source, source, 2), RowTexts(source, source)  # type: ignore[arg-type]
    refusals = [texts.pack([0, 1, 2])[1], online.gather([0, 1, 2])[2]]
    for refused in refusals:
        assert refused.keys() == {1}
        assert refused[1].error.startswith("error of the program: TypeError")
        assert "Traceback" in refused[1].traceback
