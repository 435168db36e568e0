"""Claim an output folder: new, continued, finished, or of another job."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from core.config import loading
from core.config.settings import setting
from core.engine.config import EngineConfig
from core.errors import UserError
from core.run import claim as claiming
from core.run.claim import claim, claim_run, require_same_settings
from tests.core.run.claimed_job import Job, take


def test_claim_goes_from_new_over_continue_to_finished(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    assert take(output) == "new"
    assert loading.load(Job, [output / "config.yaml"]) == Job()
    assert take(output) == "continue"
    (output / "done.json").write_text("{}")
    assert take(output) == "finished"


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_that_begin_at_once_the_first_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """The second has found the folder empty, too."""
    take(tmp_path)
    (tmp_path / "part").touch()
    monkeypatch.setattr(claiming, "_is_empty", lambda output: True)
    assert take(tmp_path, overwrite=overwrite) == "continue"
    with pytest.raises(UserError, match=r"^size=2: expected 1"):
        take(tmp_path, Job(size=2), overwrite=overwrite)
    assert loading.load(Job, [tmp_path / "config.yaml"]) == Job()
    assert (tmp_path / "part").exists()


def test_another_config_is_refused_with_the_field_and_both_values(tmp_path: Path) -> None:
    take(tmp_path)
    with pytest.raises(UserError) as caught:
        take(tmp_path, Job(size=2))
    assert (caught.value.field, caught.value.value) == ("size", 2)
    assert str(caught.value).startswith("size=2: expected 1, with which")
    assert "overwrite=true" in str(caught.value)
    assert loading.load(Job, [tmp_path / "config.yaml"]).size == 1


def test_a_field_that_an_earlier_version_did_not_have_counts_as_its_default(tmp_path: Path) -> None:
    take(tmp_path)
    recorded = tmp_path / "config.yaml"
    kept = [
        line for line in recorded.read_text().splitlines() if "size" not in line and "precision" not in line
    ]
    assert len(kept) < len(recorded.read_text().splitlines())
    recorded.write_text("\n".join(kept))
    assert take(tmp_path) == "continue"
    with pytest.raises(UserError, match="size=2: expected 1, with which"):
        take(tmp_path, Job(size=2))


@pytest.mark.parametrize(
    "change",
    [
        {"log_every": 9},
        {"processes": 2},
        {"source": "./data"},
        {"source": str(Path("data").resolve())},
    ],
)
def test_fields_that_do_not_change_the_result_are_not_compared(
    tmp_path: Path, change: dict[str, object]
) -> None:
    take(tmp_path)
    assert take(tmp_path, replace(Job(), **change)) == "continue"  # type: ignore[arg-type]


def test_every_differing_field_is_named_and_ways_out_come_before_what_overwriting_removes(
    tmp_path: Path,
) -> None:
    take(tmp_path)
    with pytest.raises(UserError) as nothing_there:
        take(tmp_path, Job(size=2))
    assert str(nothing_there.value) == (
        f"size=2: expected 1, with which {tmp_path} was made; go on with the old value, or take another "
        "output, or overwrite=true: no work is lost"
    )
    for name, seconds in (("first", 0), ("second", 4000)):
        (tmp_path / name).write_text("work")
        os.utime(tmp_path / name, (seconds, seconds))
    with pytest.raises(UserError) as caught:
        take(tmp_path, Job(size=2, seed=3, log_every=7))
    assert str(caught.value) == (
        f"size=2: expected 1, with which {tmp_path} was made; and seed=3: expected 0, with which {tmp_path} "
        "was made; go on with the old values, or take another output; overwrite=true would remove "
        "2 files of 8 B, written in 1 h 6 min"
    )


@dataclass(frozen=True, kw_only=True)
class Beginner(Job):
    """A job whose runs can begin from the weights of another."""

    initial: str = setting("", "weights to begin from", role="place")


def test_a_run_of_another_config_is_offered_as_the_beginning_of_a_new_one(tmp_path: Path) -> None:
    take(tmp_path, Beginner())
    (tmp_path / "checkpoint").write_text("work")
    with pytest.raises(UserError, match="size=2: expected 1") as caught:
        take(tmp_path, Beginner(size=2))
    offered = f"or take output=NEW initial={tmp_path}, a new run that starts from its weights; overwrite=true"
    assert offered in str(caught.value)


def test_other_settings_are_refused_before_the_output_is_claimed(tmp_path: Path) -> None:
    """By whoever queues the job; places, and numbers that may grow, are the job's to judge."""
    require_same_settings(tmp_path, Job(output=tmp_path))
    take(tmp_path)
    before = (tmp_path / "config.yaml").read_bytes()
    for same in (Job(output=tmp_path), Job(output=tmp_path, source="/elsewhere", processes=4)):
        require_same_settings(tmp_path, same)
    require_same_settings(tmp_path, Job(output=tmp_path, size=2), ("size",))
    require_same_settings(tmp_path, Job(output=tmp_path, size=2, overwrite=True))
    with pytest.raises(UserError, match="size=2: expected 1"):
        require_same_settings(tmp_path, Job(output=tmp_path, size=2))
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_an_output_of_another_job_is_refused_before_it_is_claimed(tmp_path: Path) -> None:
    name_job(tmp_path, "train")
    with pytest.raises(UserError, match=r"and this is one of train$"):
        require_same_settings(tmp_path, Job(output=tmp_path))


def test_what_started_the_job_makes_no_folder_foreign_and_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "submissions").mkdir()
    (tmp_path / ".meeting-0").touch()
    assert take(tmp_path) == "new"
    assert take(tmp_path, Job(size=2), overwrite=True) == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".meeting-0", "config.yaml", "submissions"]


CONTENT = {"/old": "0123456789abcdef", "/new": "0123456789abcdef", "/other": "fedcba9876543210"}


def move(output: Path, source: str, also: tuple[str, ...] = ()) -> str:
    def contents(path: str) -> tuple[dict[str, str], dict[str, str]]:
        assert path == "source"
        return {"content": CONTENT["/old"]}, {"content": CONTENT[source]}

    job = Job(source=source, also=also)
    return claim(output, job, done="done.json", overwrite=False, contents=contents)


def test_a_place_may_move_with_its_content_and_the_record_follows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move(tmp_path, "/old")
    capsys.readouterr()
    with pytest.raises(UserError) as caught:
        move(tmp_path, "/other")
    assert str(caught.value).startswith(
        f"source=/other: expected what {tmp_path} was made from, with content=0123456789ab; this has "
        "fedcba987654; go on with the old value"
    )
    assert capsys.readouterr().err == ""
    assert move(tmp_path, "/new") == "continue"
    assert capsys.readouterr().err == (
        f"{tmp_path}: source is /new now, and was /old; config.yaml says so from here on\n"
    )
    assert loading.load(Job, [tmp_path / "config.yaml"]).source == "/new"
    assert move(tmp_path, "/new") == "continue"
    assert capsys.readouterr().err == ""
    with pytest.raises(
        UserError, match=r"source=/old: expected /new, .*; nothing in it says what lay there; "
    ):
        take(tmp_path, Job(source="/old"))


def test_another_spelling_of_a_place_is_not_another_place_but_more_of_them_are(tmp_path: Path) -> None:
    here = str(Path("data").resolve())
    take(tmp_path, Job(also=("data", "s3://a/b")))
    assert take(tmp_path, Job(also=(here, "s3://a/b"))) == "continue"
    for also in (("data",), (here, "s3://a/c"), (here, "")):
        with pytest.raises(UserError, match=r"also=.*: expected "):
            take(tmp_path, Job(also=also))


def test_a_finished_output_may_move_too(tmp_path: Path) -> None:
    take(tmp_path / "a", Job(output=tmp_path / "a"))
    (tmp_path / "a" / "done.json").write_text("{}")
    (tmp_path / "a").rename(tmp_path / "b")
    assert take(tmp_path / "b", Job(output=tmp_path / "b")) == "finished"
    assert loading.load(Job, [tmp_path / "b" / "config.yaml"]).output == tmp_path / "b"


def test_the_record_given_back_as_a_file_never_overwrites(tmp_path: Path) -> None:
    assert claim_run(tmp_path, Job(overwrite=True, size=3), done="done.json")
    again = loading.load(Job, [tmp_path / "config.yaml"])
    assert (again.overwrite, again.size) == (False, 3)


def test_a_finished_run_says_what_beginning_anew_would_remove(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take(tmp_path)
    (tmp_path / "done.json").write_text("{}")
    assert not claim_run(tmp_path, Job(), done="done.json", made=lambda: "9 steps")
    said = capsys.readouterr().err
    assert said == f"{tmp_path} is finished; overwrite=true would start over and remove 9 steps\n"
    assert not claim_run(tmp_path, Job(), done="done.json", may_grow=("size",))
    assert "is finished; a larger size lengthens it; overwrite=true would" in capsys.readouterr().err


def test_what_may_grow_continues_a_finished_output_and_may_not_shrink(tmp_path: Path) -> None:
    def take_longer(size: int) -> str:
        return claim(tmp_path, Job(size=size), done="done.json", overwrite=False, may_grow=("size",))

    take(tmp_path, Job(size=2))
    (tmp_path / "done.json").write_text("{}")
    assert take_longer(2) == "finished"
    with pytest.raises(UserError, match="size=1: expected 2 or more, with which"):
        take_longer(1)
    assert (tmp_path / "done.json").exists()
    assert take_longer(3) == "continue"
    assert not (tmp_path / "done.json").exists()
    assert loading.load(Job, [tmp_path / "config.yaml"]).size == 3
    with pytest.raises(UserError, match="size=4: expected 3, with which"):
        take(tmp_path, Job(size=4))
    assert take_longer(5) == "continue"  # before it was finished


def test_overwrite_removes_what_is_ours(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    output = tmp_path / "output"
    take(output)
    (output / "done.json").write_text("{}")
    (output / "deep").mkdir()
    (output / "deep" / "file").write_text("x")
    (output / "link").symlink_to(outside)
    assert take(output, Job(size=2), overwrite=True) == "new"
    assert [entry.name for entry in output.iterdir()] == ["config.yaml"]
    assert (outside / "keep").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["letter.txt", "config.yaml"])
def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).write_text("size: 1\n")
    with pytest.raises(UserError, match="expected a new or empty folder"):
        take(tmp_path, overwrite=overwrite)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "size: 1\n"


def name_job(output: Path, name: str) -> None:
    """Make the first line of the record say `name`."""
    take(output)
    text = (output / "config.yaml").read_text()
    assert text.startswith("# longtake: the resolved config of train-autoencoder\n")
    (output / "config.yaml").write_text(text.replace(Job.job, name, 1))


@pytest.mark.parametrize("name", ["train", "tools.train", "tools.other", "train-autoencoder-2"])
def test_the_output_of_another_job_is_refused(tmp_path: Path, name: str) -> None:
    name_job(tmp_path, name)
    said = name.removeprefix("tools.") if name == "tools.train" else name
    expected = f"an output of train-autoencoder, and this is one of {said}"
    with pytest.raises(UserError, match=f"{re.escape(expected)}$"):
        take(tmp_path, overwrite=True)


def test_an_output_that_names_the_module_of_its_job_is_still_of_that_job(tmp_path: Path) -> None:
    name_job(tmp_path, "tools.train_autoencoder")
    assert take(tmp_path) == "continue"


def test_a_file_as_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="this is a file"):
        take(tmp_path / "file")
    with pytest.raises(UserError, match="this is a file"):
        claim_run(tmp_path / "file", Job(), done="done.json")


def test_a_claim_that_was_killed_before_its_first_file_is_repeated(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0123456789ab-config.yaml").write_text("size")
    assert take(tmp_path) == "new"


def test_a_run_may_go_on_with_another_way_to_share_the_work_but_not_another_precision(tmp_path: Path) -> None:
    take(tmp_path)
    otherwise = EngineConfig(
        zero_stage=3, sequence_parallel=2, activation_checkpointing="full", micro_batch=1
    )
    assert take(tmp_path, Job(engine=otherwise)) == "continue"
    with pytest.raises(UserError, match=r"engine\.precision=fp32: expected bf16"):
        take(tmp_path, Job(engine=EngineConfig(precision="fp32")))
