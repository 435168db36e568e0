"""Sources that want to be read as more than they are. Run: pytest tests/data/raw/test_hostile_sources.py"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from core.errors import UserError, WorkError
from data.media.formats import MediaError, MediaLimits
from data.raw import opening
from data.raw.ingest import list_source
from data.raw.opening import LEAVES
from data.raw.rules import SourceRules
from tests.data.samples import image_bytes, picture

PNG = image_bytes(picture())
SECRET = "the secret words"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a folder with one picture, beside a folder with secrets."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text(SECRET)
    (tmp_path / "outside/secret.png").write_bytes(PNG)
    (tmp_path / "outside/prompts.txt").write_text(f"{SECRET}\n")
    (tmp_path / "outside/t.csv").write_text(f"path,text\n0.png,{SECRET}\n")
    source = tmp_path / "source"
    source.mkdir()
    (source / "0.png").write_bytes(PNG)
    return source


def test_a_caption_behind_a_link_is_counted_and_not_read(source: Path) -> None:
    (source / "0.txt").symlink_to("../outside/secret.txt")
    (source / "t.csv").symlink_to("../outside/t.csv")
    listing = list_source(source)
    assert listing.ignored == {"link out of the source (links=follow reads it)": 2}
    assert [item.text for item in listing.items] == [""]
    (source / "t.csv").unlink()
    assert [item.text for item in list_source(source, SourceRules(links="follow")).items] == [SECRET]


@pytest.mark.parametrize("name", ["link.png", "folder/secret.png"])
@pytest.mark.parametrize("given", [False, True])
def test_a_table_does_not_lead_out_through_links(source: Path, name: str, given: bool) -> None:
    (source.parent / "outside/t.csv").unlink()
    (source / "link.png").symlink_to("../outside/secret.png")
    (source / "folder").symlink_to("../outside")
    (source / "t.csv").write_text(f"path,text\n0.png,a\n{name},b\n")
    root = source / "t.csv" if given else source
    assert [item.refused for item in list_source(root).items] == [None, ("read", LEAVES)]
    followed = list_source(root, SourceRules(links="follow")).items
    assert [item.refused for item in followed][:2] == [None, None]


def test_a_list_of_prompts_behind_a_link_is_refused_by_name(source: Path) -> None:
    (source / "images.txt").write_text("0.png\n")
    (source / "prompts.txt").symlink_to("../outside/prompts.txt")
    with pytest.raises(OSError, match="a link leads out of the source") as caught:
        list_source(source)
    assert "prompts.txt" in str(caught.value)
    assert [item.text for item in list_source(source, SourceRules(links="follow")).items] == [SECRET]


def test_a_link_put_there_after_the_listing_is_not_followed(source: Path) -> None:
    (source / "in").mkdir()
    (source / "in/secret.png").write_bytes(PNG)
    items = list_source(source).items
    assert [len(item.read(MediaLimits())) for item in items] == [len(PNG)] * 2
    (source / "0.png").unlink()
    (source / "0.png").symlink_to("../outside/secret.png")
    (source / "in/secret.png").unlink()
    (source / "in").rmdir()
    (source / "in").symlink_to("../outside")
    for item in items:
        with pytest.raises(MediaError, match="a link leads out of the source"):
            item.read(MediaLimits())


def test_links_within_the_source_and_to_the_source_are_followed(source: Path, tmp_path: Path) -> None:
    (source / "1.png").symlink_to("0.png")
    (tmp_path / "there").symlink_to("source")
    for item in list_source(tmp_path / "there").items:
        assert item.read(MediaLimits()) == PNG


@pytest.mark.parametrize("name", ["a.tar", "t.csv", "t.jsonl", "t.json", "t.parquet"])
def test_pipes_for_tars_and_tables_are_named_and_never_waited_for(source: Path, name: str) -> None:
    os.mkfifo(source / name)
    with pytest.raises((UserError, WorkError, OSError), match="not a regular file"):
        list_source(source)


def test_pipes_for_captions_and_pictures_are_set_aside(source: Path) -> None:
    os.mkfifo(source / "0.txt")
    os.mkfifo(source / "1.png")
    first, second = list_source(source).items
    assert first.refused == ("caption", "0.txt: not a regular file")
    with pytest.raises(MediaError, match="not a regular file"):
        second.read(MediaLimits())


def test_lines_of_tables_are_bounded(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LONGEST_LINE", 1000)
    monkeypatch.setattr(opening, "LARGEST_WHOLE", 2000)
    row = json.dumps({"path": "0.png", "text": "x" * 1000})
    for name, content in (
        ("t.jsonl", row),
        ("t.csv", f"path,text\n0.png,{'x' * 1000}\n"),
        ("t.json", f"[{row}, {row}]"),
    ):
        (source / name).write_text(content)
        with pytest.raises(UserError, match=r"line \d is longer than 1000 characters|larger than 2000 bytes"):
            list_source(source)
        (source / name).unlink()
