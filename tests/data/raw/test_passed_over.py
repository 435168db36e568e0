"""Files that belong to no dataset, links out of the source, and caches: counted or named, never packed."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import UserError
from data.raw.ingest import list_source
from data.raw.rules import SourceRules
from tests.data.raw.sources import APPLE, PNG, listed, pictures, place, tar, told


@pytest.mark.parametrize("prefix", ["", "./", "photos/"])
def test_files_of_systems_are_passed_over_in_tars_as_in_folders(tmp_path: Path, prefix: str) -> None:
    members: dict[str, str | bytes] = {}
    for k in range(3):
        for name, data in ((f"{k}.png", PNG), (f"{k}.txt", f"t{k}".encode())):
            members |= {f"{prefix}._{name}": APPLE, f"{prefix}{name}": data}
    extra = dict.fromkeys(
        ("__MACOSX/._0.png", ".DS_Store", "Thumbs.db", "README.md", "LICENSE", "dataset_info.json"), b"{}"
    )
    listing = listed(tmp_path / "tar", {"a.tar": tar({**members, **extra})})
    assert [(item.text, item.refused) for item in listing.items] == [(f"t{k}", None) for k in range(3)]
    assert listing.ignored == {"hidden": 7, "of the system": 2, ".md": 1, "without suffix": 1, ".json": 1}
    folder = listed(tmp_path / "folder", {**members, **extra})
    assert [item.text for item in folder.items] == ["t0", "t1", "t2"]


def test_links_out_of_the_source_are_counted_or_followed(tmp_path: Path) -> None:
    place(tmp_path, pictures("in/0.png", "out/1.png", "out/more/2.png"))
    (tmp_path / "in/1.png").symlink_to(tmp_path / "out/1.png")
    (tmp_path / "in/again.png").symlink_to("0.png")
    (tmp_path / "in/more").symlink_to(tmp_path / "out/more")
    (tmp_path / "out/more/circle").symlink_to(tmp_path / "out/more")
    listing = list_source(tmp_path / "in")
    assert list(told(listing)) == ["0.png", "again.png"]
    assert listing.ignored == {"link out of the source (links=follow reads it)": 1, "linked folder": 1}
    followed = list_source(tmp_path / "in", SourceRules(links="follow"))
    assert list(told(followed)) == ["0.png", "1.png", "again.png", "more/2.png"]


def test_a_hub_cache_is_named(tmp_path: Path) -> None:
    place(tmp_path, {"blobs/abc": PNG, "refs/main": "r1"})
    (tmp_path / "snapshots/r1").mkdir(parents=True)
    (tmp_path / "snapshots/r1/0.png").symlink_to("../../blobs/abc")
    with pytest.raises(
        UserError, match=r"expected one snapshot of this Hugging Face hub cache: .*r1 links=follow"
    ):
        list_source(tmp_path)
    with pytest.raises(UserError, match=r"links=inside: expected follow, since .* Hugging Face hub cache"):
        list_source(tmp_path / "snapshots/r1")
    assert list(told(list_source(tmp_path / "snapshots/r1", SourceRules(links="follow")))) == ["0.png"]


@pytest.mark.parametrize("depth", ["", "hub/", "huggingface/hub/"])
def test_the_folder_around_a_hub_cache_is_named(tmp_path: Path, depth: str) -> None:
    for name in ("datasets--me--cats", "models--me--vae"):
        place(tmp_path, {f"{depth}{name}/blobs/abc": PNG, f"{depth}{name}/refs/main": "r1"})
        snapshot = tmp_path / depth / name / "snapshots/r1"
        snapshot.mkdir(parents=True)
        (snapshot / "0.png").symlink_to("../../blobs/abc")
        found = "the Hugging Face hub cache that it holds"
        one = f"{snapshot} links=follow" if name.startswith("datasets") else "REVISION links=follow"
        others = (
            r"" if name.startswith("datasets") else r" \(there are: .*cats/snapshots/r1, .*vae/snapshots/r1\)"
        )
        for links in ("inside", "follow"):
            with pytest.raises(UserError, match=f"expected one snapshot of {found}: .*{one}{others}$"):
                list_source(tmp_path, SourceRules(links=links))  # type: ignore[arg-type]
    for part in ("datasets--me--dogs/refs/main", "datasets--me--dogs/snapshots/r1/0.png"):  # without links
        place(tmp_path / "copies", {part: PNG})
    for source in (tmp_path / "copies", tmp_path / "copies/datasets--me--dogs"):
        with pytest.raises(
            UserError, match=r"one snapshot of .*: .*datasets--me--dogs/snapshots/r1 links=follow"
        ):
            list_source(source)
    place(tmp_path / "mine", pictures("models--of-cars/0.png", "snapshots/1.png"))
    assert list_source(tmp_path / "mine").classes == ("models--of-cars", "snapshots")
