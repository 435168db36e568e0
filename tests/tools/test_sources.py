"""Messages of each job for a `source` with nothing to read. Run: pytest tests/tools/test_sources.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from launch import cli

JOBS = {
    "shard": ["output=out"],
    "train-autoencoder": ["output=out"],
    "encode": ["output=out", "autoencoder=nowhere"],
    "train": ["output=out"],
    "sample": ["output=out"],
    "evaluate": ["output=out", "real=nowhere"],
    "export": ["output=out"],
    "inspect": [],
    "report": [],
}


@pytest.mark.parametrize("dry", [True, False], ids=["plan", "run"])
@pytest.mark.parametrize("job", JOBS)
def test_the_field_its_value_what_is_accepted_and_what_is_there(
    job: str, dry: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").write_text("x")
    for source, ending in (("none", "nothing is there"), ("empty", "empty|found nothing"), ("file", "file")):
        assert cli.main([job, source, *JOBS[job], *(["--dry-run"] if dry else [])]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"longtake {job}: source={source}: expected ")
        assert line.endswith(tuple(ending.split("|")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
