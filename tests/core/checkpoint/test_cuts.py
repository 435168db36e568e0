"""Readers open the files that hold what they need. Run: pytest tests/core/checkpoint/test_cuts.py"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint import format, writer
from core.checkpoint import reader as reader_file
from core.checkpoint.format import DamagedCheckpoint, key, rank_of
from core.checkpoint.pace import Pace
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.snapshot import Layout, Snapshot
from core.checkpoint.store import CheckpointStore
from core.engine.shards import Cut, Shard, require_cuts, share, share_cuts
from core.files import sealed

RANKS = 64
SHAPES = {"a": (24, 8), "b": (7,), "c": (3, 5, 2)}  # 229 numbers
KINDS = {"weight": ["a", "b", "c"], "momentum": ["a"]}
VALUES = {name: torch.arange(torch.Size(shape).numel()) + 0.5 for name, shape in SHAPES.items()}


def cuts_of(ranks: int, *, together: bool) -> list[Cut]:
    """Return how the parameters are cut: one after another (ZeRO 1 and 2), or each by itself (3)."""
    whole = [Shard(name, shape, 0, torch.Size(shape).numel(), 0, 0) for name, shape in SHAPES.items()]
    if together:
        return [Cut(c.name, SHAPES[c.name], 0, c.first, c.size) for c in share_cuts(whole, ranks)]
    return [Cut(s.name, s.shape, 0, 0, -(-s.stop // ranks)) for s in whole]


def held_by(cuts: list[Cut], rank: int) -> list[Shard]:
    """Return what a rank holds, of the replica that it is in."""
    pieces = [(cut, *cut.piece(rank)) for cut in cuts]
    return [Shard(cut.name, cut.shape, start, stop, 0, 0) for cut, start, stop in pieces if start < stop]


def write(folder: Path, cuts: list[Cut], ranks: int = RANKS, replicas: int = 1) -> Path:
    """Write what as many ranks would, one after another; cuts: over the ranks of a replica."""
    order = {c.name: (c.first, c.size) for c in cuts}
    layout = Layout(list(KINDS), {"momentum": KINDS["momentum"]}, SHAPES, order, replicas)
    receipts, snapshots = [], []
    for rank in range(ranks):
        tensors, (replica, place) = {}, divmod(rank, ranks // replicas)
        for shard in share(held_by(cuts, place), replica, replicas):
            for kind in [kind for kind, names in KINDS.items() if shard.name in names]:
                values = VALUES[shard.name][shard.start : shard.stop] + len(kind)
                tensors[key(kind, shard.name, shard.start)] = values
        one = Snapshot(rank, ranks, tensors, {}, {"": layout}, {"step": 3, "updates": 3, "ema": []})
        receipts.append(writer._write_rank(folder, one, Pace(0, 0.0, waited_for=True)))
        snapshots.append(one)
    writer._publish(folder, snapshots[0], receipts, 1, lambda: None)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that readers open, as they do."""
    names: list[str] = []
    plain = reader_file.open_tensors
    monkeypatch.setattr(reader_file, "open_tensors", lambda path: names.append(path.name) or plain(path))
    return names


def load(folder: Path, cuts: list[Cut], rank: int) -> None:
    """Read what `rank` holds by `cuts`, and compare it."""
    reader = CheckpointReader(folder)
    for kind in KINDS:
        for cut in cuts:
            start, stop = cut.piece(rank)
            if cut.name in reader.names(kind) and start < stop:
                out = torch.empty(stop - start)
                reader.read(kind, cut.name, start, stop, out)
                assert torch.equal(out, VALUES[cut.name][start:stop] + len(kind))


@pytest.mark.parametrize("together", [True, False])
def test_a_rank_with_an_unchanged_layout_opens_its_own_file_alone(
    tmp_path: Path, opened: list[str], together: bool
) -> None:
    cuts = cuts_of(RANKS, together=together)
    folder = write(tmp_path / "step-00000003.a", cuts)
    for rank in range(RANKS):
        opened.clear()
        load(folder, cuts, rank)
        assert opened in ([f"rank-{rank:05d}.safetensors"], [])  # the last ranks have nothing of small ones


@pytest.mark.parametrize(("replicas", "size"), [(2, 4), (4, 3), (16, 4)])
def test_a_rank_of_a_replica_opens_what_others_wrote_of_its_own_part_alone(
    tmp_path: Path, opened: list[str], replicas: int, size: int
) -> None:
    """All replicas hold the same, and each has written an even part of it."""
    cuts = cuts_of(size, together=False)[::-1]  # in an order that no name tells
    folder = write(tmp_path / "step-00000003.a", cuts, replicas * size, replicas)
    for rank in range(size):
        opened.clear()
        load(folder, cuts, rank)
        own = {f"rank-{replica * size + rank:05d}.safetensors" for replica in range(replicas)}
        assert set(opened) <= own
        assert len(opened) == len(set(opened)) >= replicas // 2  # the last parts may hold momentum alone
    for ranks in (1, 5):  # other layouts find their ranges too
        other = cuts_of(ranks, together=True)
        for rank in range(ranks):
            load(folder, other, rank)


def test_replicas_that_do_not_divide_the_ranks_are_damage(tmp_path: Path) -> None:
    folder = write(tmp_path / "step-00000003.a", cuts_of(2, together=False), 4, 2)
    altered(folder, lambda manifest: manifest["replicated"].update(replicas=3))
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json tells of 3 replicas and 4 ranks"):
        CheckpointReader(folder)


@pytest.mark.parametrize(("ranks", "together"), [(1, True), (16, False), (128, True), (63, False)])
def test_others_open_what_overlaps(tmp_path: Path, opened: list[str], ranks: int, together: bool) -> None:
    """Other numbers of ranks, and stages that cut otherwise than those that wrote."""
    written = cuts_of(RANKS, together=True)
    folder = write(tmp_path / "step-00000003.a", written)
    cuts = cuts_of(ranks, together=together)
    for rank in range(ranks):
        opened.clear()
        load(folder, cuts, rank)
        needed = {
            f"rank-{other:05d}.safetensors"
            for have, want in zip(written, cuts, strict=True)
            for other, _, _ in have.pieces(*want.piece(rank))
        }
        assert sorted(opened) == sorted(needed)


@pytest.mark.parametrize("written", [16, 1 << 20])
def test_files_of_many_ranks_lie_in_folders_and_are_found_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """As now, and as earlier versions wrote them."""
    cuts = cuts_of(RANKS, together=False)
    monkeypatch.setattr(format, "RANKS_A_FOLDER", written)
    folder = write(tmp_path / "step-00000003.a", cuts)
    monkeypatch.setattr(format, "RANKS_A_FOLDER", 16)
    names = {path.name for path in folder.iterdir()}
    parts = {"ranks-001", "ranks-002", "ranks-003"}
    assert names & parts == (parts if written == 16 else set())
    assert len(list((folder / "ranks-001").glob("*"))) == (2 * 16 if written == 16 else 0)
    CheckpointReader(folder).verify()
    for rank in (0, 15, 16, 40, 63):
        load(folder, cuts, rank)
    CheckpointStore(tmp_path).purge(keep_last=1, keep_every=0)
    (tmp_path / "step-00000003.a" / "manifest.json").rename(tmp_path / "step-00000003.a" / "debris")
    CheckpointStore(tmp_path).purge(keep_last=1, keep_every=0)
    assert not folder.exists()


def test_no_folder_of_a_checkpoint_of_4096_ranks_has_more_than_two_thousand_files() -> None:
    """Beside what is there once: three files, and the folders themselves."""
    once = (format.MANIFEST, format.STATE, format.FIXED)
    of_ranks = [name(rank) for rank in range(4096) for name in (format.tensors_name, format.receipt_name)]
    assert len(set(of_ranks)) == 2 * 4096
    found = Counter(str(Path(name).parent) for name in (*once, *of_ranks))
    below = {f"ranks-00{part}": 2 * 1000 for part in (1, 2, 3)} | {"ranks-004": 2 * 96}
    assert found == {".": 2 * 1000 + len(once), **below}
    assert {format.rank_of(name) for name in of_ranks} == set(range(4096))


def altered(folder: Path, change: Any) -> Path:
    """Change the manifest, and seal it again."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return folder


def test_a_checkpoint_of_an_earlier_version_is_found_by_its_headers(
    tmp_path: Path, opened: list[str]
) -> None:
    cuts = cuts_of(4, together=False)
    folder = altered(write(tmp_path / "step-00000003.a", cuts, 4), lambda manifest: manifest.pop("cuts"))
    load(folder, cuts, 1)
    assert sorted(opened) == [f"rank-{rank:05d}.safetensors" for rank in range(4)]


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (
            [0, 40],
            r"rank-00000.safetensors: weight/a@0 is of shape \[48\]; manifest.json tells of 40 numbers",
        ),
        ([5, 48], r"rank-00000.safetensors: weight/a@0 is of shape \[48\]; .* 43 numbers"),
        ([48, 48], r"rank-00001.safetensors: weight/a@0 is missing; .* 48 numbers"),
        ([0, 1], r"rank-00000.safetensors: weight/a@0 is of shape"),
        ([1 << 40, 1 << 30], "manifest.json does not list ranks-001/rank-01024.safetensors"),
    ],
)
def test_cuts_that_the_files_do_not_bear_out_are_damage(tmp_path: Path, cut: list[int], said: str) -> None:
    folder = write(tmp_path / "step-00000003.a", cuts_of(4, together=False), 4)
    altered(folder, lambda manifest: manifest["cuts"].update(a=cut))
    with pytest.raises(DamagedCheckpoint, match=said):
        CheckpointReader(folder).full("weight")


def test_what_ranks_write_of_what_all_hold_is_what_the_cuts_say() -> None:
    held = [Shard("a", (5, 2), 0, 10, 0, 3), Shard("b", (1,), 0, 1, 1, 0), Shard("c", (13,), 0, 13, 1, 1)]
    for size in (1, 2, 5, 24, 30):
        cuts = [
            Cut(c.name, s.shape, c.flat, c.first, c.size)
            for c, s in zip(share_cuts(held, size), held, strict=True)
        ]
        parts = [share(held, rank, size) for rank in range(size)]
        for rank, part in enumerate(parts):
            require_cuts(cuts, part, rank)
            assert all(
                s.offset - whole.offset == s.start for s in part for whole in held if whole.name == s.name
            )
        assert sum(s.stop - s.start for part in parts for s in part) == 24
        assert max(sum(s.stop - s.start for s in part) for part in parts) == -(-24 // size)


def test_files_of_ranks_are_known_by_their_names() -> None:
    names = ["rank-00000.json", "rank-01024.safetensors", "rank-123456.json", "state.json", "rank-7.json"]
    names += ["ranks-001/rank-01024.json", "other/rank-01024.json"]
    assert [rank_of(name) for name in names] == [0, 1024, 123456, None, None, 1024, None]
