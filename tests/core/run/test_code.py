"""Run: pytest tests/core/run/test_code.py"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from core.files import write_json
from core.run import code as module
from core.run.code import RECORD, Code, code, read


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(
        ["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "core").mkdir(parents=True)
    (root / "core" / "a b.py").write_text("1")
    (root / "notes.txt").write_text("not code")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def now(root: Path) -> Code:
    code.cache_clear()
    return code(root)


def test_a_clean_checkout_is_its_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as within a hook of git
    (checkout / "notes.txt").write_text("other notes")
    monkeypatch.delenv("GIT_DIR")
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert now(checkout) == Code(commit)
    assert str(now(checkout)) == f"commit {commit[:12]}"


def test_every_change_of_code_is_seen(checkout: Path) -> None:
    seen = [now(checkout)]
    (checkout / "core" / "a b.py").write_text("2")
    seen.append(now(checkout))
    (checkout / "core" / "a b.py").write_text("3")
    seen.append(now(checkout))
    (checkout / "core" / "new.py").write_text("3")
    seen.append(now(checkout))
    (checkout / "core" / "new.py").write_text("4")
    seen.append(now(checkout))
    (checkout / "core" / "a b.py").unlink()
    seen.append(now(checkout))
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "second")
    seen.append(now(checkout))
    assert len(set(seen)) == len(seen)
    assert [bool(each.changes) for each in seen] == [False, *[True] * 5, False]
    assert "with changes (" in str(seen[1])


def test_without_git_and_without_a_checkout_it_is_unknown(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = checkout / "venv" / "site-packages"  # an installation in another project's checkout
    inside.mkdir(parents=True)
    assert now(inside) == Code()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert now(checkout) == Code()
    assert str(Code()) == "an unknown commit"


def test_a_copy_says_what_was_copied(tmp_path: Path) -> None:
    copied = Code("a" * 40, "b" * 12)
    write_json(tmp_path / RECORD, copied.as_dict())
    assert now(tmp_path) == copied
    assert read(copied.as_dict()) == copied
    assert read(None) is None


def test_the_commit_of_an_installation_is_what_pip_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def locate_file(self, path: str) -> Path:
            return tmp_path / path

        def read_text(self, name: str) -> str:
            assert name == "direct_url.json"
            return '{"url": "https://example.org/longtake.git", "vcs_info": {"commit_id": "abc"}}'

    monkeypatch.setattr(module.importlib.metadata, "distribution", lambda name: Installed())
    assert now(tmp_path) == Code("abc")
    assert now(tmp_path / "elsewhere") == Code()
