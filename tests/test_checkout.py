"""The checkout: whose packages Python imports and setuptools finds; launchers and root are known once.

Run: pytest tests/test_checkout.py
"""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.test_layout import MAY_IMPORT, ROOT, SOURCES, name_of


def test_launchers_are_known_in_one_place() -> None:
    """Another reader of ranks or jobs would forget a launcher.

    `core/environment.py` answers for all of them.
    """
    pattern = re.compile(
        r"""["'](RANK|(LOCAL_|GROUP_)(RANK|WORLD_SIZE)|WORLD_SIZE|(MASTER|TORCHELASTIC|SLURM|SLURMD|SUBMITIT)_\w+)["']"""
        r"|sched_getaffinity|cpu_count|gethostname"
    )
    found = {name_of(source) for source in SOURCES if pattern.search(source.read_text(encoding="utf-8"))}
    # The hostname by which other nodes may find this one, CPUs to bind to, what a machine is, for a report.
    others = {"core/distributed/rendezvous.py", "core/distributed/binding.py", "tools/bench/job.py"}
    assert found == {"core/environment.py", *others}


def test_only_one_place_finds_the_root() -> None:
    """A path that counts folders up from a module is wrong once the module moves."""
    pattern = re.compile(r"\b__file__\b")
    found = {name_of(source) for source in SOURCES if pattern.search(source.read_text(encoding="utf-8"))}
    assert found == {"core/root.py", "launch/cli.py"}


@pytest.mark.parametrize("package", [*MAY_IMPORT, "configs"])
def test_packages_are_those_of_this_checkout(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT / package / "__init__.py")


def test_every_package_folder_can_be_installed() -> None:
    """setuptools leaves out folders without `__init__.py`."""
    folders = {source.parent for source in SOURCES}
    assert [name_of(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_ignored_names_are_anchored() -> None:
    """Common templates ignore `core`, `data/` and `models/` at any depth, and with them our sources."""
    for line in (ROOT / ".gitignore").read_text().splitlines():
        assert line.startswith("/") or line in {"__pycache__/", "*.pyc"}, line


def test_constraints_pin_what_pyproject_asks_for() -> None:
    pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.M))
    text = (ROOT / "pyproject.toml").read_text()
    needed = re.findall(r'^    "([a-z]+)[><]', text, re.M)
    assert "torch" in needed
    assert [name for name in needed if name not in pinned] == []
    assert pinned["torch"] == "2.13.0"
    assert 'kernels = ["triton==3.7.1"]' in text  # what torch 2.13.0 for CUDA requires
