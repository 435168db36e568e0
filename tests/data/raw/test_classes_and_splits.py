"""Which folders, tars and tables of a source are classes, and which are splits."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import UserError
from data.raw.ingest import list_source
from data.raw.rules import SourceRules
from tests.data.raw.sources import PNG, lines, listed, pictures, place, tar, told

CLASSES: dict[str, dict[str, str | bytes]] = {
    "folders": pictures("cat/0.png", "dog/0.png"),
    "in a tar": {"train.tar": tar(pictures("./cat/0.png", "./dog/0.png"))},
    "around tars": {"cat/000.tar": tar(pictures("a.png")), "dog/000.tar": tar(pictures("a.png"))},
    "imagenet": {f"{c}.tar": tar(pictures(f"{c}_1.png", f"{c}_22.png")) for c in ("cat", "dog")},
    "split in a tar": {"all.tar": tar(pictures("train/cat/0.png", "train/dog/0.png"))},
    "split of folders": pictures("train/cat/0.png", "train/dog/0.png"),
}


@pytest.mark.parametrize("layout", CLASSES)
def test_classes(tmp_path: Path, layout: str) -> None:
    listing = listed(tmp_path, CLASSES[layout])
    assert listing.classes == ("cat", "dog")
    assert listing.labels == len(listing.items)


def test_numbered_tars_are_no_classes(tmp_path: Path) -> None:
    files = {f"data-{k}.tar": tar(pictures(f"data-{k}_0.png")) for k in range(3)}
    assert listed(tmp_path, files).classes == ()


def test_names_of_tars_with_other_files_are_classes_where_asked_and_said_otherwise(tmp_path: Path) -> None:
    files = {
        f"{word}.tar": tar(pictures("000000.png", "000001.png"))
        for word in ("dog-000000", "dog-000001", "cat")
    }
    listing = listed(tmp_path, files)
    assert (listing.classes, listing.labels) == ((), 0)
    assert any(
        "names of tars (cat, dog) are no classes" in line and "classes=true" in line for line in listing.said
    )
    listing = list_source(tmp_path, SourceRules(classes=True))
    assert (listing.classes, listing.labels) == (("cat", "dog"), 6)
    assert not any("no classes" in line for line in listing.said)
    labelled = {"cat.tar": tar({**pictures("0.png"), "0.cls": "7"}), "dog.tar": tar(pictures("0/0.png"))}
    listing = listed(
        tmp_path / "other", {"cat.tar": tar(pictures("a/0.png")), "dog.tar": labelled["dog.tar"]}
    )
    assert listing.classes == ("0", "a")  # folders in tars go before their names
    assert not any("no classes" in line for line in listing.said)


SPLITS: dict[str, dict[str, str | bytes]] = {
    "folders": pictures("train/0.png", "val/0.png", "test/0.png"),
    "with a readme": {**pictures("train/0.png", "val/0.png", "test/0.png"), "README.md": "# Data"},
    "tars": {f"{s}-00000.tar": tar(pictures(f"{s}0.png")) for s in ("train", "val", "test")},
    "data": pictures("data/train/0.png", "data/val/0.png", "data/test/0.png"),
    "in a tar": {"all.tar": tar(pictures("train/0.png", "val/0.png", "test/0.png"))},
    "in a folder of a tar": {"all.tar": tar(pictures("d/train/0.png", "d/val/0.png", "d/test/0.png"))},
}


@pytest.mark.parametrize("layout", SPLITS)
def test_splits_must_be_chosen_from_and_are_no_classes(tmp_path: Path, layout: str) -> None:
    with pytest.raises(UserError, match=r"split='': expected NAME.*test \(1 .*train \(1 .*val \(1 "):
        listed(tmp_path, SPLITS[layout])
    listing = listed(tmp_path, SPLITS[layout], split="train+val")
    assert (len(listing.items), listing.classes) == (2, ())
    assert listing.ignored["of split test"] == 1
    with pytest.raises(UserError, match="split=dev: expected splits of the source"):
        listed(tmp_path, SPLITS[layout], split="train+dev")


@pytest.mark.parametrize(
    ("members", "classes"),
    [
        ([["root/dog/0.png", "root/cat/0.png"]], ("cat", "dog")),
        ([["./root/dog/0.png"], ["./root/cat/0.png"]], ("cat", "dog")),
        ([["dog/0.png", "dog/1.png"]], ("dog",)),
        ([["dog/a/0.png", "dog/b/0.png"], ["cat/a/0.png"]], ("cat", "dog")),
        ([["dog/a/0.png", "dog/a/1.png"]], ("dog",)),
    ],
)
def test_one_folder_around_all_samples_of_tars_is_no_class(
    tmp_path: Path, members: list[list[str]], classes: tuple[str, ...]
) -> None:
    files = {f"x-{number}.tar": tar(pictures(*names)) for number, names in enumerate(members)}
    listing = listed(tmp_path, files)
    assert (listing.classes, len(listing.items)) == (classes, sum(map(len, members)))
    said = any("the folder root/ around all samples is no class" in line for line in listing.said)
    assert said == members[0][0].removeprefix("./").startswith("root")


CALLED_BY_SPLITS: dict[str, dict[str, str | bytes]] = {
    "below the kind": {"images/train/0.png": PNG, "images/val/1.png": PNG, "captions/val/1.txt": "x"},
    "below one folder": {"photos 2024/mine/train/0.png": PNG, "photos 2024/mine/val/1.png": PNG},
    "beside annotations": {"train/0.png": PNG, "val/1.png": PNG, "notes/list.txt": "all of it"},
    "tables of one folder": {
        **pictures("0.png", "1.png"),
        "train.csv": "path,text\n0.png,a\n",
        "val.csv": "path,text\n1.png,b\n",
    },
    "tables with a word more": {
        **pictures("a/0.png", "a/1.png"),
        "metadata_train2014.jsonl": lines({"file_name": "a/0.png", "text": "a"}),
        "metadata_val2014.jsonl": lines({"file_name": "a/1.png", "text": "b"}),
    },
    "tars with a word more": {
        "mine-train-0000.tar": tar({"0.png": PNG}),
        "mine-train-0001.tar": tar({"2.png": PNG}),
        "mine-val-0000.tar": tar({"1.png": PNG}),
    },
}


@pytest.mark.parametrize("layout", CALLED_BY_SPLITS)
def test_splits_are_known_wherever_the_source_is_called_so(tmp_path: Path, layout: str) -> None:
    place(tmp_path, CALLED_BY_SPLITS[layout])
    with pytest.raises(UserError, match=r"split=.*splits of the source: train \(.*, val \("):
        list_source(tmp_path)
    listing = list_source(tmp_path, SourceRules(split="val"))
    (name,) = told(listing)
    assert name.endswith("1.png")
    assert not any(listing.classes)


def test_a_folder_around_splits_is_said_to_be_no_class(tmp_path: Path) -> None:
    listing = listed(tmp_path, pictures("dog/train/0.png"))
    assert listing.said == ("splits packed: train", "the folder dog/ around all splits is no class")
    assert listing.classes == ()


def test_numbers_before_names_in_other_folders_are_classes(tmp_path: Path) -> None:
    assert listed(tmp_path, pictures("photos/2020_a/0.png", "photos/2021_b/1.png")).classes == (
        "2020_a",
        "2021_b",
    )


def test_splits_that_the_source_has_not_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="split=train: expected '': the source has no splits"):
        listed(tmp_path, pictures("0.png"), split="train")


def test_classes_called_as_splits_and_lists_of_splits_are_said(tmp_path: Path) -> None:
    listing = listed(
        tmp_path, {**pictures("train_set/0.png", "val_set/1.png", "more/2.png"), "val.txt": "1.png\n"}
    )
    assert set(listing.classes) == {"train_set", "val_set", "more"}
    assert "warning: classes that are called as splits are: train_set, val_set;" in " ".join(listing.said)
    assert "not used: the file val.txt" in listing.said


def test_other_first_folders_are_classes(tmp_path: Path) -> None:
    listing = listed(tmp_path, pictures("train/0.png", "bus/0.png"))
    assert listing.classes == ("bus", "train")
    assert "warning: classes that are called as splits are: train;" in " ".join(listing.said)


@pytest.mark.parametrize(
    ("around", "said"),
    [
        ("data", "the folder data/ around all others is no class"),
        ("dataset/images", "the folder dataset/ around all others is no class"),
        ("images/2024", "the folder 2024/ around all others is no class"),
    ],
)
def test_a_folder_around_all_others_is_no_class(tmp_path: Path, around: str, said: str) -> None:
    files = pictures(f"{around}/cat/0.png", f"{around}/cat/1.png", f"{around}/dog/0.png")
    listing = listed(tmp_path, files)
    assert listing.classes == ("cat", "dog")
    assert said in " ".join(listing.said)


def test_one_folder_of_pictures_is_a_class(tmp_path: Path) -> None:
    assert listed(tmp_path, pictures("cat/0.png", "cat/more/1.png")).classes == ("cat",)
