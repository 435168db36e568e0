"""Every file under configs/ is read by the job that it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.config.fields import walk
from core.config.loading import load
from core.config.settings import REQUIRED
from core.config.yaml_files import read_yaml
from core.root import ROOT
from launch.cluster.submit import Target
from launch.jobs import find

CONFIGS = ROOT / "configs"
JOBS = {"encode": "encode", "plan": "plan", "sweep": "sweep"}
JOBS |= dict.fromkeys(("train", "model", "data", "engine"), "train")
SAMPLES = "sample-"  # of the demo: what is sampled follows
FILES = [str(path.relative_to(CONFIGS)) for path in sorted(CONFIGS.rglob("*.yaml"))]


def schema_of(file: Path) -> type[Any]:
    """Return the config of the job that a file is for, by its folder; of demo and photos by its name."""
    folder = file.parts[0]
    if folder == "cluster":
        return Target
    name = JOBS.get(folder, "sample" if file.stem.startswith(SAMPLES) else file.stem)
    schema: type[Any] = find(name).load().Config
    return schema


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_by_its_job(name: str) -> None:
    schema = schema_of(Path(name))
    required = [f"{place.path}=x" for place in walk(schema) if place.default is REQUIRED]
    required += ["real=x"] if find("evaluate").load().Config is schema else []  # which only its scores need
    base = CONFIGS / "demo" / Path(name).name  # of the file that a smaller scale changes
    files = [base, CONFIGS / name] if "tiny" in name and base.is_file() else [CONFIGS / name]
    config = load(schema, files, required)
    given = read_yaml(CONFIGS / name)
    assert given
    for field in given:
        assert hasattr(config, field)


def test_jobs_are_found_for_all_files() -> None:
    assert {Path(name).parts[0] for name in FILES} == {*JOBS, "cluster", "demo", "photos"}
