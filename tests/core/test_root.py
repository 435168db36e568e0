"""The root is that of this checkout, and another Python imports the code from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import root


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
