"""The root is that of this checkout, another Python imports the code from there, and runs share one cache.

Run: pytest tests/core/test_root.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import root
from core.errors import UserError


def test_the_root_holds_every_package() -> None:
    for package in ("core", "models", "data", "tools", "launch", "configs"):
        assert (root.ROOT / package / "__init__.py").is_file()


def test_a_python_started_elsewhere_imports_this_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise SystemExit('the foreign core was imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert root.import_path() == f"{root.ROOT}{os.pathsep}{tmp_path}"
    code = "import sys; from core import root; assert 'torch' not in sys.modules; print(root.ROOT)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root.import_path()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{root.ROOT}\n"


def test_without_a_pythonpath_the_root_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert root.import_path() == str(root.ROOT)


def test_the_folder_that_runs_share_is_named_or_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "named"))
    assert root.cache_folder() == tmp_path / "named"
    monkeypatch.setenv("LONGTAKE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert root.cache_folder() == tmp_path / "longtake"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert root.cache_folder() == tmp_path / ".cache" / "longtake"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match="LONGTAKE_CACHE='': expected a folder, since this user has no home"):
        root.cache_folder()
