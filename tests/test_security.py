"""Statements of docs/security.md, each held to its tests. Run: pytest tests/test_security.py"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from core.files import atomic_file, temporary_name, write_json, write_json_once
from core.root import ROOT
from tests.test_layout import SOURCES, name_of, tree_of

# The helpers themselves, files below /proc and /sys, and streams that are open already.
MAY_OPEN = {"core/terminal.py", "core/files.py", "core/run/run_lock.py", "core/preflight/facts.py"}


def rows() -> list[list[str]]:
    lines = (ROOT / "docs/security.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][
        2:
    ]


def test_each_row_names_a_test_that_exists() -> None:
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert len(rows()) > 20
    for what, done, test in rows():
        assert what
        assert done
        assert test.strip("`") in found, test


def is_reading(call: ast.Call) -> bool:
    """Return whether a call of `open` may open a file only for reading."""
    mode = call.args[1] if len(call.args) > 1 else ast.Constant("r")
    return not isinstance(mode, ast.Constant) or not set(str(mode.value)) & set("wax+")


@pytest.mark.parametrize("source", [s for s in SOURCES if "/bench/" not in name_of(s)], ids=name_of)
def test_files_are_opened_by_the_helpers(source: Path) -> None:
    if name_of(source) in MAY_OPEN:
        return
    tree = tree_of(source)
    parsed = {id(inner) for call in ast.walk(tree) if _is_json(call) for inner in ast.walk(call)}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        if isinstance(call.func, ast.Name) and call.func.id == "open" and is_reading(call):
            assert "opener" in {keyword.arg for keyword in call.keywords}, f"line {call.lineno}"
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("read_text", "read_bytes"):
            if call.args and ast.unparse(call.args[0]).endswith(".json'"):  # a name, of a package
                continue
            assert id(call) in parsed, f"line {call.lineno}: core.files.{call.func.attr} reads regular files"


def _is_json(node: ast.AST) -> bool:
    """Return whether this is a call of `json.loads(...)`; JSON files have a reader of their own."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    return node.func.attr == "loads" and ast.unparse(node.func) == "json.loads"


def test_temporary_names_cannot_be_foreseen(tmp_path: Path) -> None:
    names = {temporary_name(tmp_path / "a").name for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(r"\.tmp-[0-9a-f]{12}-a", name) for name in names)


def test_a_link_at_a_temporary_name_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "foreseen").symlink_to("mine")
    monkeypatch.setattr("core.files.temporary_name", lambda path: path.with_name("foreseen"))
    with pytest.raises(FileExistsError), atomic_file(tmp_path / "a") as file:
        file.write(b"x")
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077, 0o027])
def test_published_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "new/a.json", 1)
        write_json_once(tmp_path / "b.json", 1)
    finally:
        os.umask(before)
    for path in (tmp_path / "new/a.json", tmp_path / "b.json"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask
