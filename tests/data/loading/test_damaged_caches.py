"""A cache whose bytes were changed is refused, or gives the data that it gave before.

It never gives other data.

Run: pytest tests/data/loading/test_damaged_caches.py
"""

from __future__ import annotations

import collections
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.distributed.ranks import World
from core.errors import UserError, WorkError
from data.dataset import blocks
from data.dataset.index import Dataset
from data.dataset.manifest import content_fingerprint
from data.dataset.schema import CRC, write_index
from data.dataset.shared.shard_table import ShardRecord
from data.latent.packs import LATENT_DTYPE, Pack, Text, write_part
from data.loading.loader import LatentLoader
from data.loading.sources.cached import CachedLatents
from data.order.steps import LoaderConfig
from data.reindexing.from_parts import index_from_parts, sidecars_from_parts
from data.reindexing.reindex import reindex
from tests.data.caches import CLIP, IMAGE, latents_of, make_cache, packs_of

SHARDS = [[IMAGE, CLIP, IMAGE, IMAGE, CLIP, IMAGE], [IMAGE] * 5 + [CLIP] * 2]
ABSENT, WIDTH, STEPS = 2, 3, 8
TABLES = ("index.npy", "flip.npy", "text.npy")
TARS = ("000000.tar", "000001.tar")
Verify = Any


def full(pack: Pack) -> Pack:
    """Return a pack with mirrored views, and a caption for each sample."""
    count = len(pack.ids)
    tokens = (pack.ids[:, None] + np.arange(2 * WIDTH)).astype(LATENT_DTYPE).reshape(-1, WIDTH)
    ranges = np.stack([np.arange(count) * 2, np.full(count, 2)], 1).astype(np.uint32)
    return replace(pack, flips=np.ascontiguousarray(pack.latents[..., ::-1]), text=Text(tokens, ranges))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two shards of pictures and clips, each with a mirrored view and text; row 2 is absent."""
    folder = tmp_path_factory.mktemp("made")
    manifest = make_cache(folder, SHARDS).manifest
    records, first = [], 0
    for number, shapes in enumerate(SHARDS):
        path = folder / TARS[number]
        packs = packs_of(first, shapes, [ABSENT] if number == 0 else [], size=100)
        offsets = np.cumsum([0, *(2 * len(pack.ids) for pack in packs)])
        texts = [full(pack) for pack in packs]
        moved = [
            replace(p, text=Text(p.text.tokens, p.text.ranges + np.array([start, 0], np.uint32)))
            for p, start in zip(texts, offsets.tolist(), strict=False)
            if p.text is not None
        ]
        write_part(path, number, moved)
        records.append(ShardRecord.of(path, len(shapes)))
        first += len(shapes)
    index, shapes_found = index_from_parts(folder, records)
    made_from = {"encoder": "a", "text": {"encoder": "t", "width": WIDTH, "tokens": 8}}
    sidecars, text = sidecars_from_parts(folder, records, index, made_from)
    files = write_index(folder, index, **sidecars)
    replace(
        manifest,
        fingerprint=content_fingerprint("latent", records, files, classes=[], made_from=made_from),
        shards=tuple(records),
        buckets=tuple(shapes_found),
        files=files,
        extra={**manifest.extra, "made_from": made_from, **text},
    ).write(folder)
    return folder


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    """Return a copy to damage."""
    return shutil.copytree(made, tmp_path / "cache")


def trained_on(folder: Path, verify: Verify) -> list[Any]:
    """Return all that training sees of the first steps, several epochs."""
    config = LoaderConfig(group_size=4, groups_per_step=2, rank_multiple=2, shuffle_shards=1, verify=verify)
    source = CachedLatents(Dataset(folder, check=verify != "off"))
    loader = source.loader(config, World(0, 1, 0, torch.device("cpu")), 0)
    seen: list[Any] = [source.sample_counts(), str(source.conditions())]
    for step in range(STEPS):
        for batch in loader.load(step):
            condition = batch.condition
            seen += [batch.id, batch.x, batch.weight, condition.label, condition.text, condition.text_length]
    return [value.numpy().tobytes() if isinstance(value, torch.Tensor) else value for value in seen]


def refusal_or_data(folder: Path, verify: Verify) -> str | list[Any]:
    try:
        return trained_on(folder, verify)
    except (WorkError, UserError) as error:
        return str(error)


Damage = Callable[[np.random.Generator, bytearray], None]


def random_bytes(random: np.random.Generator, data: bytearray) -> None:
    at, size = int(random.integers(len(data))), int(random.integers(1, 65))
    piece = random.integers(0, 256, size, np.uint8).tobytes()
    data[at : at + size] = piece[: len(data) - at]


def one_bit(random: np.random.Generator, data: bytearray) -> None:
    bit = int(random.integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8


def cut(random: np.random.Generator, data: bytearray) -> None:
    del data[int(random.integers(len(data))) :]


def swapped(random: np.random.Generator, data: bytearray) -> None:
    """Swap two pieces that are as long as the rows of some table or the latents of a sample."""
    size = int(random.choice([8, 10, 12, 30, 192, 512, 1024]))
    a, b = sorted(random.integers(0, max(1, len(data) - size), 2).tolist())
    b = min(max(b, a + size), len(data) - size)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def zeroed(random: np.random.Generator, data: bytearray) -> None:
    at, size = int(random.integers(len(data))), int(random.integers(16, 512))
    data[at : at + size] = bytes(len(data[at : at + size]))


def longer(random: np.random.Generator, data: bytearray) -> None:
    data += random.integers(0, 256, int(random.integers(1, 600)), np.uint8).tobytes()


DAMAGES: tuple[Damage, ...] = (random_bytes, one_bit, cut, swapped, zeroed, longer)


def attack(folder: Path, whole: Path, names: tuple[str, ...], verify: Verify, rounds: int) -> dict[str, int]:
    """Damage each file in every way; return how often a file's damage was refused."""
    expected, refused = trained_on(whole, verify), dict.fromkeys(names, 0)
    for seed in range(rounds):
        for name in names:
            for number, damage in enumerate(DAMAGES):
                data = bytearray((whole / name).read_bytes())
                damage(np.random.default_rng([seed, number]), data)
                (folder / name).write_bytes(data)
                found = refusal_or_data(folder, verify)
                if isinstance(found, str):
                    assert str(folder) in found, found
                    assert "\n" not in found
                    refused[name] += 1
                else:
                    assert found == expected, (name, damage.__name__, seed)
            shutil.copyfile(whole / name, folder / name)
    return refused


@pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=pytest.mark.full)])
def test_damaged_tables_are_never_trained_on(cache: Path, made: Path, rounds: int) -> None:
    refused = attack(cache, made, TABLES, "index", rounds)
    assert min(refused.values()) > rounds  # and not the same data each time


@pytest.mark.parametrize("rounds", [3, pytest.param(200, marks=pytest.mark.full)])
def test_with_samples_damaged_tars_are_not_either(cache: Path, made: Path, rounds: int) -> None:
    refused = attack(cache, made, (*TABLES, CRC, *TARS), "samples", rounds)
    assert min(refused.values()) > rounds


def test_without_samples_changed_values_in_a_tar_pass(cache: Path, made: Path) -> None:
    """Else the tests above would prove nothing."""
    flip_a_value(cache, row=4)
    for verify in ("index", "off"):
        assert trained_on(cache, verify) != trained_on(made, verify)


def flip_a_value(folder: Path, row: int, column: str = "sample") -> str:
    """Change a bit of a sample's latents, its mirrored view or its text; returns the name of the tar."""
    data = Dataset(folder)
    entry = data.index[row]
    flips, texts = np.load(folder / "flip.npy"), np.load(folder / "text.npy")
    offsets = {"sample": entry["offset"], "flip": flips[row], "text": texts["offset"][row]}
    path = data.shard_path(int(entry["shard"]))
    content = bytearray(path.read_bytes())
    content[int(offsets[column]) + 2] ^= 1
    path.write_bytes(content)
    return path.name


@pytest.mark.parametrize("column", ["sample", "flip", "text"])
def test_a_changed_sample_is_named_with_what_to_do(cache: Path, column: str) -> None:
    name = flip_a_value(cache, 4, column)
    what = "the text of sample 4" if column == "text" else "sample 4"
    with pytest.raises(WorkError, match=rf"{name}: damaged: {what} is not .*action=verify.*action=repair"):
        trained_on(cache, "samples")


def test_a_moved_sample_is_seen(cache: Path, made: Path) -> None:
    """Two samples that changed places are whole, and still not what was encoded."""
    index = np.load(made / "index.npy")
    size = int(index["size"][0])
    content = bytearray((cache / TARS[0]).read_bytes())
    a, b = (int(index["offset"][row]) for row in (0, 3))
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    (cache / TARS[0]).write_bytes(content)
    assert latents_of(0, IMAGE).tobytes() in bytes(content)
    with pytest.raises(WorkError, match=r"000000.tar: damaged: sample 0"):
        trained_on(cache, "samples")


def test_off_compares_nothing(cache: Path) -> None:
    index = np.load(cache / "index.npy")
    index["label"][0] += 1
    np.save(cache / "index.npy", index)
    trained_on(cache, "off")
    with pytest.raises(WorkError, match=r"index.npy: damaged"):
        trained_on(cache, "index")


def test_a_first_batch_checks_just_the_blocks_of_the_shards_that_it_is_drawn_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time does not grow with the index; what it does not read may even be damaged."""
    monkeypatch.setattr(blocks, "BLOCK", 256)
    folder = make_cache(tmp_path, [[IMAGE] * 8] * 40, counts=True).folder
    config = LoaderConfig(group_size=4, rank_multiple=2, shuffle_shards=2)

    def opened() -> tuple[np.ndarray, LatentLoader]:
        """Return which blocks of the index are not checked yet, and a loader of it."""
        data = Dataset(folder)
        assert data.index.blocks is not None
        world = World(0, 1, 0, torch.device("cpu"))
        return data.index.blocks.is_unchecked, CachedLatents(data).loader(config, world, 0)

    unchecked, loader = opened()
    assert unchecked.all()
    assert len(unchecked) > 37
    before = [batch.x for batch in loader.load(0)]
    assert 1 <= (~unchecked).sum() <= 2 * 3  # of two shards, 240 bytes each
    content = bytearray((folder / "index.npy").read_bytes())
    for block in np.flatnonzero(unchecked).tolist()[1:]:  # behind the header
        content[256 * block] ^= 1
    (folder / "index.npy").write_bytes(content)
    _, loader = opened()
    assert all(torch.equal(a, b.x) for a, b in zip(before, loader.load(0), strict=True))
    with pytest.raises(WorkError, match=r"index.npy: damaged: bytes"):
        collections.deque(map(loader.load, range(1, 20)))


def as_of_an_earlier_version(folder: Path) -> None:
    record = json.loads((folder / "dataset.json").read_text())
    del record["sha256"], record["blocks"], record["files"][CRC]
    (folder / "dataset.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    (folder / CRC).unlink()


def test_a_cache_of_an_earlier_version_opens_and_an_index_made_anew_adds_the_hashes(
    cache: Path, made: Path
) -> None:
    as_of_an_earlier_version(cache)
    assert trained_on(cache, "index") == trained_on(made, "index")
    with pytest.raises(
        UserError, match=r"verify=samples: expected index or off: .* has no crc.npy .*reindex"
    ):
        trained_on(cache, "samples")
    reindex(cache)
    assert Dataset(cache).manifest.fingerprint == Dataset(made).manifest.fingerprint
    assert trained_on(cache, "samples") == trained_on(made, "samples")
