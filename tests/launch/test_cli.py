"""The command line: what is printed, what is refused, and with which exit status."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.config import loading
from core.config.settings import REQUIRED, setting
from core.errors import EndedEarly, UserError, WorkError
from core.root import ROOT
from launch import arguments, cli, jobs
from tests.data.samples import image_folder
from tests.fresh_python import imported_by
from tests.integration.recipe_cache import make_recipe_cache
from tools.runs import run_hours


@dataclass(frozen=True, kw_only=True)
class Section:
    zero_stage: int = setting(1, "ZeRO stage", low=0, high=3)


@dataclass(frozen=True, kw_only=True)
class Config:
    source: Path = setting(REQUIRED, "what is read")
    name: str = setting("run", "name of the run")
    steps: int = setting(10, "optimizer steps", unit="steps", low=1)
    processes: int = setting(1, "local ranks", low=1)
    engine: Section = setting(Section(), "the engine")


class Toy(types.ModuleType):
    """Packs a toy.

    It has a docstring of its own.
    """

    Config = Config

    def __init__(self) -> None:
        super().__init__("toy_job", Toy.__doc__)
        self.ran: list[Config] = []
        self.error: BaseException | None = None

    def plan(self, config: Config) -> list[str]:
        return [f"{config.steps} steps", f"reads {config.source}"]

    def run(self, config: Config) -> None:
        self.ran.append(config)
        if self.error:
            raise self.error


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    module = Toy()
    monkeypatch.setitem(sys.modules, "toy_job", module)
    job = jobs.Job("toy", "toy_job", "pack a toy", ("longtake toy box steps=3",))
    monkeypatch.setattr(jobs, "JOBS", (*jobs.JOBS, job))
    return module


def test_run_gets_files_overrides_and_the_bare_path(toy: Toy, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("steps: 5\nengine: {zero_stage: 2}")
    assert cli.main(["toy", str(file), "box/1", "engine.zero_stage=3", "name=no"]) == 0
    expected = Config(source=Path("box/1"), name="no", steps=5, engine=Section(zero_stage=3))
    assert toy.ran == [expected]


def test_files_of_a_cluster_compose_with_a_job_that_runs_here(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is for a submission is passed over with a word; the rest of such a file counts."""
    both = tmp_path / "site.yaml"
    both.write_text("cluster:\n  tasks_per_node: 8\nsteps: 7\n")
    assert cli.main(["toy", "box", str(both)]) == 0
    said = capsys.readouterr().err
    assert f"{both}: its section `cluster` is for `longtake submit toy ...`, and is not used" in said
    assert toy.ran[-1].steps == 7


def test_the_line_of_a_recipe_and_a_cluster_composes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_hours, "LONGEST", 0)  # samples are not timed
    cache = make_recipe_cache(tmp_path, [(4, 1, 32, 32)], classes=1000)
    files = [str(ROOT / "configs" / name) for name in ("train/dit_s2_256.yaml", "cluster/h100_8.yaml")]
    fields = [str(cache), f"output={tmp_path / 'run'}", "engine.device=cpu", "model.depth=1"]
    assert cli.main(["train", *files, *fields, "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "processes=8 takes as many here as it has on a node" in captured.err
    assert "cluster:" not in captured.out
    assert "\n# step: 256 samples" in captured.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "longtake: trian: no such job; the nearest is train (longtake --help lists all)"),
        (["toy", "box", "stesp=3"], "longtake toy: stesp: no such field; the nearest is steps"),
        (
            ["toy", "box", "engine.zero_stage=4"],
            "longtake toy: engine.zero_stage=4: expected an integer from 0 to 3",
        ),
        (
            ["toy", "box", "cluster.nodes=2"],
            "longtake toy: cluster: a section of `longtake submit toy ...`, and `longtake toy` runs here",
        ),
        (["toy"], "longtake toy: source: required but not given: what is read"),
        (["toy", "box", "none.yaml"], "longtake toy: none.yaml: no such file"),
        (
            ["toy", "a", "b"],
            "longtake toy: a b: expected one bare path, the source; other fields are field=value",
        ),
        (["toy", "box\udcff"], r"longtake toy: 'box\udcff': a word that is not UTF-8 text"),
        (["toy", "name=\udcc3\x1b"], r"longtake toy: 'name=\udcc3\x1b': a word that is not UTF-8 text"),
        (
            ["toy", "box", "--max-steps=3"],
            "longtake toy: --max-steps=3: no such option; fields are written max_steps=3; "
            "options are --help and --dry-run",
        ),
        (["toy", "--dry_run"], "longtake toy: --dry_run: no such option; the nearest is --dry-run"),
        (["toy", "--hlep"], "longtake toy: --hlep: no such option; the nearest is --help"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    toy: Toy, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", message + "\n")
    assert toy.ran == []


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("source", "x", "a folder"), 2, "source=x: expected a folder"),
        (WorkError("12 of 20 files\ncould not be read"), 1, "12 of 20 files could not be read"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.tar"),
            1,
            "a.tar: No space left on device",
        ),
        (EndedEarly("runs/x: ended early"), 75, "runs/x: ended early"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_a_failure_of_the_work_is_one_line(
    toy: Toy, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, message: str
) -> None:
    toy.error = error
    assert cli.main(["toy", "box"]) == status
    assert capsys.readouterr().err == f"longtake toy: {message}\n"


def test_a_bug_keeps_its_traceback(toy: Toy) -> None:
    toy.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        cli.main(["toy", "box"])


def test_dry_run_prints_a_config_file_with_the_plan_as_comments(
    toy: Toy, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["toy", "box", "steps=1e3", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("# 1000 steps\n# reads box\n")
    (tmp_path / "again.yaml").write_text(text)
    assert loading.load(Config, [tmp_path / "again.yaml"]) == Config(source=Path("box"), steps=1000)
    assert toy.ran == []


def test_a_dry_run_ends_with_what_the_output_was_made_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that differs, behind the plan, as the job itself would refuse it."""
    image_folder(tmp_path / "in")
    words = ["shard", str(tmp_path / "in"), f"output={tmp_path / 'out'}"]
    assert cli.main(words) == cli.main([*words, "--dry-run"]) == 0
    capsys.readouterr()
    assert cli.main([*words, "seed=1", "samples_per_shard=2", "--dry-run"]) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("# ")
    assert "seed=1: expected 0, with which" in printed.err
    assert "samples_per_shard=2: expected 1024" in printed.err
    assert cli.main([*words, "seed=1", "overwrite=true", "--dry-run"]) == 0


def test_help_of_a_job_shows_usage_examples_and_every_field(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["toy", "--help"]) == 0
    text = capsys.readouterr().out
    assert "usage: longtake toy [FILE.yaml ...] [SOURCE] [field=value ...]" in text
    assert "  longtake toy box steps=3\n" in text
    assert "Packs a toy.\n\nIt has a docstring of its own." in text
    assert "  source=...  (required)  <path>\n        what is read\n" in text
    assert "  steps=10  <int >= 1, unit steps>\n        optimizer steps\n" in text
    assert "  engine: the engine\n  engine.zero_stage=1  <int 0..3>\n        ZeRO stage" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("example", [example for job in jobs.JOBS for example in job.examples])
def test_the_examples_of_help_name_real_fields(example: str) -> None:
    words = [word for word in example.split()[1:] if not word.endswith(".yaml")]
    typed = arguments.parse(words, jobs.SEVERAL)
    known = {line.path for line in loading.help_of(jobs.find(typed.job).load().Config, [], typed.overrides)}
    assert {override.partition("=")[0] for override in typed.overrides} <= known


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_the_jobs_a_line_each(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    for job in jobs.JOBS:
        assert sum(line.split()[:1] == [job.name] and line.endswith(job.help) for line in lines) == 1
    assert max(map(len, lines)) <= 110


def test_help_imports_nothing_heavy() -> None:
    modules, said = imported_by("from launch.cli import main; main(['--help'])")
    heavy = {"torch", "numpy", "omegaconf", "deepspeed", "PIL", "av", "webdataset"}
    assert (modules & heavy, said) == (set(), "")


def test_packing_imports_no_torch(tmp_path: Path) -> None:
    image_folder(tmp_path / "in")
    code = "from launch.cli import main; assert main(sys.argv[1:]) == 0"
    modules, _ = imported_by(code, "shard", str(tmp_path / "in"), f"output={tmp_path / 'out'}")
    assert modules & {"torch", "deepspeed", "webdataset"} == set()


def test_a_foreign_core_is_refused_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("raise SystemExit('the foreign core was imported')")
    path = [str(tmp_path), str(ROOT)]
    code = f"import sys; sys.path[1:1] = {path}; from launch.cli import main; sys.exit(main([]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"longtake: the package `core` must be {ROOT / 'core'}, but Python finds {tmp_path / 'core'}"
    )
    assert done.stderr.count("\n") == 1


def test_output_into_a_closed_pipe_is_silent() -> None:
    code = "import sys; from launch.cli import main; sys.exit(main(['--help']))"
    done = subprocess.run(
        ["bash", "-c", '"$0" -u -c "$1" | true', sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(("on_ranks", "shares", "status"), [(False, False, 2), (False, True, 0)])
def test_a_job_of_one_process_is_not_run_by_several_tasks(
    toy: Toy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    on_ranks: bool,
    shares: bool,
    status: int,
) -> None:
    job = jobs.JOBS[-1]._replace(on_ranks=on_ranks, shares=shares)
    monkeypatch.setattr(jobs, "JOBS", (*jobs.JOBS[:-1], job))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli._status(["toy", "box"]) == status
    expected = "1, since toy runs in one process, which starts the others (processes=N)"
    assert capsys.readouterr().err == (
        f"longtake toy: by hand tasks=2: expected {expected}\n" if status else ""
    )
    assert bool(toy.ran) is (status == 0)


@pytest.mark.parametrize("module", ["longtake", "launch"])
def test_either_module_is_the_command_line(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "shard", "missing", "output=made"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("longtake shard: source=missing: expected an existing folder")
