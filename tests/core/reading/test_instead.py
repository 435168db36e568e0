"""What a refusal says of a place where a folder was expected.

Run: pytest tests/core/reading/test_instead.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from core.files import write_text
from core.reading.instead import instead


def test_what_is_there_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_text(tmp_path / "file", "")
    found = [instead(tmp_path / name) for name in ("none", "empty", "file", ".", "file/below")]
    assert found == [
        "; nothing is there",
        "; this folder is empty",
        "; this is a file",
        "",
        "; nothing is there",
    ]


def test_a_name_of_the_hub_gets_the_command_that_makes_a_folder_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hint = instead(Path("stabilityai/sd-vae-ft-mse"))
    assert "`hf download stabilityai/sd-vae-ft-mse --local-dir FOLDER`" in hint
    (tmp_path / "runs").mkdir()
    for place in ("runs/vae", "vae", "a/b/c", "../a", "/a/b"):
        assert instead(Path(place)) == "; nothing is there"


def test_a_url_is_named_as_what_is_not_fetched() -> None:
    for url in ("https://example.com/a.tar", "hf://owner/data"):
        assert (
            instead(Path(url))
            == "; nothing is there, and nothing is downloaded: bring the files into a folder"
        )
