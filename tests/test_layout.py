"""The shape of the tree: who imports whom, who owns which library, what is never done."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "core": {"core"},
    "models": {"core", "models"},
    "data": {"core", "data"},
    "tools": {"core", "models", "data", "tools"},
    "launch": {"core", "models", "data", "tools", "launch"},
}
OWNERS = {
    "omegaconf": r"core/config/loading\.py",
    "yaml": r"core/config/loading\.py",
    "deepspeed": r"core/engine/\w+\.py",
    "wandb": r"core/metrics/wandb_view\.py",
    "webdataset": r"data/\w+/\w+\.py|tools/bench/peers\.py",
    "litdata": r"tools/bench/peers\.py",
    "streaming": r"tools/bench/peers\.py",
    "submitit": r"launch/slurm\.py",
    "flash_attn": r"models/attention/backends\.py",
    "flash_attn_interface": r"models/attention/backends\.py",
    "av": r"data/media/(scaling|scenes|video|remux)\.py|tools/bench/clips\.py",
    # Pictures are decoded in the first only.
    "PIL": r"data/media/images\.py|data/raw/duplicates\.py|data/media/pictures\.py",
    "imagehash": r"data/raw/duplicates\.py",
    "scenedetect": r"data/media/scenes\.py",
    "pyarrow": r"data/raw/tables\.py",
    "sklearn": r"tools/digits\.py",
    "diffusers": r"models/autoencoder/public\.py|tools/bench/public_dits\.py",
    "transformers": r"models/text/encoders\.py",
}
MAY_CATCH_ALL = {
    "core/metrics/wandb_view.py",  # a metrics service that fails never ends a training run
    "models/attention/choice.py",  # a kernel that fails in whatever way is not taken, and the reason is told
    "core/checkpoint/save_thread.py",  # what its thread meets is raised by the main one
    "data/loading/ahead.py",  # likewise
}
SOURCES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


def tree_of(source: Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8"), str(source))


def imports(tree: ast.Module) -> Iterator[str]:
    """Top-level names of all imports, those inside functions too; relative ones as '.'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else (node.module or "").partition(".")[0]


def name_of(source: Path) -> str:
    return source.relative_to(ROOT).as_posix()


def test_all_folders_have_sources() -> None:
    assert {name_of(source).partition("/")[0] for source in SOURCES} == set(MAY_IMPORT)


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_imports_follow_the_house_and_libraries_have_one_owner(source: Path) -> None:
    name = name_of(source)
    for imported in imports(tree_of(source)):
        assert imported != ".", f"{name} imports relatively"
        assert imported not in set(MAY_IMPORT) - MAY_IMPORT[name.partition("/")[0]], (
            f"{name} imports {imported}"
        )
        if imported in OWNERS:
            assert re.fullmatch(OWNERS[imported], name), (
                f"{imported} belongs to {OWNERS[imported]}, not to {name}"
            )


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_nothing_is_swallowed_unpickled_or_given_to_a_shell(source: Path) -> None:
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.ExceptHandler) and name_of(source) not in MAY_CATCH_ALL:
            caught = ast.unparse(node.type) if node.type else "BaseException"
            broad = re.search(r"\b(Exception|BaseException)\b", caught)
            assert not broad or ast.unparse(node.body[-1]) == "raise", f"line {node.lineno}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "Image.open" or name_of(source) == "data/media/images.py", f"line {node.lineno}"
            assert called not in {"torch.load", "os.system", "eval", "exec"}, f"line {node.lineno}"
            for keyword in node.keywords:
                given = f"{keyword.arg}={ast.unparse(keyword.value)}"
                assert given not in {"shell=True", "allow_pickle=True"}, f"line {node.lineno}"
    assert not {"pickle", "dill", "cloudpickle", "shelve"} & set(imports(tree_of(source)))


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
