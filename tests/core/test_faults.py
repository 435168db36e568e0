"""Faults of one rank of several, and the fault matrix: which test covers which fault.

Run: pytest tests/core/test_faults.py
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from core import distributed
from core.metrics import read_rows
from core.watchdog import EXIT_STATUS
from tests.core.ranks import finish, run_ranks, start_ranks
from tests.core.toy_run import toy_trainer

PROGRAM = str(Path(__file__).with_name("toy_run.py"))
TESTS = Path(__file__).parents[1]

FAULTS = (  # what none of these tests may leave out; signals and schedulers are listed beside them
    *("kill -9 at any point of a save or step", "a slow rank while another commits"),
    *("a file of a checkpoint deleted, cut, emptied, flipped", "a file of another step"),
    *("no valid checkpoint, but there were some", "disk full in a save"),
    *(
        "the writing thread fails, or the run ends while it writes",
        "resume at another stage or number of ranks",
    ),
    *("frozen weights, buffers, groups, averages across resume", "a malicious checkpoint", "NaN on one rank"),
    *("NaN again and again", "a rank dies", "a rank is stopped, a deadlock", "a rank leaves a step out"),
    *("a slow rank", "a shard missing, cut off or damaged", "a corrupt or huge image", "hostile members"),
    *("a worker killed, a read that hangs", "storage that fails", "fewer samples than ranks, uneven splits"),
    *("wandb down", "config or data changed on resume", "an abort after success", "silent corruption"),
)
MATRIX = {  # fault -> where it is made to happen; a name without a file is a test of this one
    "kill -9 at any point of a save or step": (
        "core/test_resume.py::test_a_kill_anywhere_is_survived",
        "core/test_resume.py::test_a_killed_run_equals_an_uninterrupted_one",
        "core/test_trainer.py::test_a_run_that_failed_anywhere_continues_exactly",
    ),
    "a slow rank while another commits": ("test_nothing_is_published_before_every_rank_has_written",),
    "a file of a checkpoint deleted, cut, emptied, flipped": (
        "core/checkpoint/test_checkpoint.py::test_damage_is_refused_with_the_file_named",
        "core/checkpoint/test_checkpoint.py::test_a_bit_anywhere_in_any_file_is_found",
        "core/checkpoint/test_checkpoint.py::test_a_bit_anywhere_in_the_manifest_is_found",
        "core/checkpoint/test_checkpoint.py::test_a_damaged_newest_falls_back_loudly",
    ),
    "a file of another step": ("core/checkpoint/test_checkpoint.py::test_a_file_of_another_step_is_refused",),
    "no valid checkpoint, but there were some": (
        "core/checkpoint/test_checkpoint.py::test_without_a_whole_one_the_run_does_not_start_over",
        "core/checkpoint/test_store.py::test_lost_checkpoints_are_an_error_and_not_a_fresh_start",
    ),
    "disk full in a save": (
        "core/test_trainer.py::test_a_full_disk_is_survived_until_it_is_not",
        "core/checkpoint/test_tensor_file.py::test_a_full_disk_leaves_nothing_behind",
    ),
    "the writing thread fails, or the run ends while it writes": (
        "core/test_saver.py::test_an_error_of_the_thread_ends_the_run_at_the_next_save",
        "core/test_saver.py::test_a_save_under_way_is_finished_when_training_fails",
        "core/test_early_end.py::test_an_early_end_waits_for_the_save_under_way",
    ),
    "resume at another stage or number of ranks": (
        "core/test_ranks.py::test_states_load_exactly_on_other_ranks_and_stages",
        "core/test_trainer.py::test_continuing_on_another_stage_follows_the_same_curve",
    ),
    "frozen weights, buffers, groups, averages across resume": (
        "core/checkpoint/test_checkpoint.py::test_everything_is_restored",
    ),
    "a malicious checkpoint": (
        "core/checkpoint/test_checkpoint.py::test_no_pickle_and_a_manifest_of_all_files",
        "test_layout.py::test_nothing_is_swallowed_unpickled_or_given_to_a_shell",
    ),
    "NaN on one rank": (
        "core/test_ranks.py::test_nan_on_one_rank_skips_the_step_on_all",
        "test_a_bad_sample_on_one_rank_is_named",
        "core/test_culprit.py::test_a_module_whose_backward_fails_is_named",
    ),
    "NaN again and again": (
        "core/test_incidents.py::test_a_run_rolls_back_passes_over_and_goes_on",
        "core/test_incidents.py::test_a_run_that_rolled_back_continues_exactly",
        "core/test_incidents.py::test_rollbacks_are_limited",
        "core/test_early_end.py::test_amid_steps_that_are_rolled_back_later_no_checkpoint_is_made",
    ),
    "SIGTERM or SIGUSR2 during data wait, step, save, validation": (
        "core/test_early_end.py::test_a_signal_ends_the_run_after_a_step_and_it_continues_exactly",
        "core/test_early_end.py::test_a_signal_during_validation",
        "core/test_early_end.py::test_before_the_first_step_it_ends_at_once",
        "core/test_early_end.py::test_one_rank_of_two_is_asked_and_both_end_alike",
        "integration/test_early_end.py::test_signals_at_random_moments_cost_nothing",
        "integration/test_early_end.py::test_torchrun_passes_the_signal_on",
    ),
    "SIGUSR2 twice, SIGUSR2 then SIGTERM": ("core/test_early_end.py::test_several_signals_are_one",),
    "SIGUSR2 while blocked in a collective": ("test_a_stopped_rank_ends_the_run_with_a_report",),
    "a rank dies": (
        "launch/test_local.py::test_a_rank_that_dies_brings_down_one_that_waits_for_it_within_10_s",
        "core/test_resume.py::test_a_killed_run_equals_an_uninterrupted_one",
    ),
    "a rank is stopped, a deadlock": (
        "test_a_stopped_rank_ends_the_run_with_a_report",
        "test_a_stopped_rank_ends_the_run_at_every_stage",
        "core/test_resume.py::test_a_stopped_rank_ends_the_others_within_the_timeout",
    ),
    "a rank leaves a step out": (
        "test_a_rank_that_is_astray_or_corrupt_is_found",
        "test_a_rank_in_another_step_is_found",
    ),
    "a slow rank": ("test_a_straggler_is_reported_and_training_goes_on",),
    "a shard missing, cut off or damaged": (
        "data/test_damage.py::test_the_damaged_shard_is_named_and_no_other",
        "data/test_damage.py::test_every_read_gives_the_sample_or_an_error",
        "data/test_latents.py::test_a_missing_part_is_named_at_the_start",
    ),
    "a corrupt or huge image": (
        "data/test_media.py::test_damage_gives_a_picture_or_a_media_error_of_one_line",
        "data/test_media.py::test_png_that_claims_60000_by_60000_pixels_is_refused_before_decoding",
        "data/test_pixels.py::test_a_damaged_sample_keeps_its_slot_with_weight_0",
        "data/test_pixels.py::test_the_budget_stops_the_job",
        "data/test_decoding_memory.py::test_a_small_file_that_unpacks_to_much_takes_no_memory",
    ),
    "hostile members": (
        "data/test_damage.py::test_hostile_members_are_set_aside_and_do_nothing",
        "data/test_damage.py::test_names_in_a_manifest_cannot_lead_out",
        "data/test_remote.py::test_other_schemes_are_refused",
    ),
    # Training reads in threads: there is no worker to kill, and a read that hangs ends the run as a hang;
    # the same command continues it. When a process that encodes dies, others take its shards over.
    "a worker killed, a read that hangs": (
        "tools/test_encode_workers.py::test_a_worker_process_that_is_killed_does_not_end_the_command",
        "test_a_read_that_hangs_ends_the_run",
        "data/test_damage.py::test_a_pipe_in_place_of_a_tar_is_refused_and_not_waited_for",
    ),
    "storage that fails": (
        "data/test_remote.py::test_storage_that_fails_now_and_then_gives_the_same_batches",
        "data/test_remote.py::test_storage_that_is_down_ends_the_work_after_growing_waits",
        "data/test_remote.py::test_a_failed_download_leaves_nothing",
        "tools/test_encode_workers.py::test_a_shard_that_fails_again_and_again_is_named_and_repaired",
    ),
    "fewer samples than ranks, uneven splits": (
        "data/test_loader.py::test_a_step_is_the_same_for_any_world_and_micro_batch",
        "data/test_loader.py::test_ranks_that_do_not_divide_a_group_are_refused",
        "data/test_order.py::test_a_bucket_smaller_than_its_group_repeats_by_epochs",
    ),
    "wandb down": (
        "core/test_wandb_view.py::test_training_is_the_same_whatever_wandb_does",
        "core/test_wandb_view.py::test_rows_that_are_not_taken_are_left_out_with_one_warning",
        "core/test_wandb_view.py::test_every_step_is_shown_once_under_one_identity",
    ),
    "config or data changed on resume": (
        "core/test_trainer.py::test_other_data_is_refused_on_resume",
        "integration/test_train.py::test_a_finished_run_is_left_alone_and_another_config_is_refused",
    ),
    "an abort after success": (
        "launch/test_local.py::test_an_abort_after_the_end_marker_is_no_failure",
        "launch/test_local.py::test_exit_status_is_not_the_sign_of_success",
        "core/test_trainer.py::test_a_finished_run_is_left_alone_however_its_process_ended",
    ),
    "silent corruption": (
        "core/test_corruption.py::test_a_bit_that_turns_over_ends_the_run",
        "core/test_corruption.py::test_arithmetic_that_is_wrong_once_is_found",
        "test_a_rank_that_is_astray_or_corrupt_is_found",
    ),
}

OTHER_STEP = """
import torch
from core import distributed
from core.agreement import StepAgreement
from core.batch import Batch
from core.errors import WorkError
world = distributed.start("cpu", 60)
batch = Batch(*(torch.ones(2, dtype=d) for d in (torch.float32, torch.int64, torch.int64, torch.float32)))
for step in (5, 4097):
    agreement = StepAgreement(step, [batch], world)
    assert float(agreement.total_weight()) == 4.0
    agreement.require()
astray = StepAgreement(6 + world.rank, [batch], world)
try:
    astray.require()
except WorkError as error:
    print(error)
distributed.stop(world)
"""

# Runs of two ranks; what is wrong on rank 1 happens when it asks for the data of its fifth step.
ASTRAY = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from core import distributed
from core.errors import WorkError
from tests.core.toy_run import toy_trainer

def flip(tensor):
    tensor.detach().view(-1).view(torch.uint8)[:1].bitwise_xor_(1)

def run(name, act, **fields):
    trainer = toy_trainer(Path(sys.argv[1]) / name, world, steps=8, **fields)
    batches = trainer.feed.batches
    def watched(first):
        for number, parts in enumerate(batches(first), first):
            if number == 4 and world.rank == 1:
                if act(trainer) == "leave out":
                    continue
            yield parts
    trainer.feed = replace(trainer.feed, batches=watched)
    try:
        trainer.fit()
    except WorkError as error:
        print(name, error)

world = distributed.start("cpu", 60)
run("left-out", lambda trainer: "leave out")
for stage in (1, 3):
    flip_master = lambda trainer: flip(trainer.engine.flats[0])
    run(f"master-{stage}", flip_master, zero_stage=stage, check_every=1)
run("frozen", lambda trainer: flip(trainer.engine.module.frozen.weight), zero_stage=2, check_every=3)
distributed.stop(world)
"""


def test_every_fault_has_its_tests() -> None:
    assert set(FAULTS) - set(MATRIX) == set()
    for fault, tests in MATRIX.items():
        for test in tests:
            file, _, name = test.rpartition("::")
            text = (TESTS / (file or "core/test_faults.py")).read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{fault}: {test} does not exist"


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At once: a run with validation, whose rank 1 is late for data once and one with a poisoned sample."""
    folder = tmp_path_factory.mktemp("faults")
    fault = "fault=step.data@rank=1,step=3:sleep=3"
    late = f"--run={folder}/late steps=4 validate_every=2 precision=fp32 {fault}"
    poisoned = f"--run={folder}/poisoned steps=3 poison=14 zero_stage=3"
    run_ranks(2, PROGRAM, *late.split(), *poisoned.split())
    return folder


@pytest.mark.multiprocess
def test_a_straggler_is_reported_and_training_goes_on(two_ranks: Path) -> None:
    rows = read_rows(two_ranks / "late" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    late = rows[3]["ranks"]  # steps are counted from 0 by failpoints
    assert (late["slowest"]["rank"], late["fastest"]["rank"]) == (1, 0)
    assert (late["straggler"]["rank"], late["straggler"]["phase"]) == (1, "data")
    assert 2.5 < late["straggler"]["behind_s"] < 4


@pytest.mark.multiprocess
def test_validation_is_the_same_on_two_ranks(two_ranks: Path, tmp_path: Path) -> None:
    world = distributed.start("cpu", 60)
    toy_trainer(tmp_path, world, steps=4, validate_every=2, precision="fp32").fit()
    alone, together = (read_rows(f / "validation.jsonl") for f in (tmp_path, two_ranks / "late"))
    assert len(alone) == len(together) == 2
    for one, other in zip(alone, together, strict=True):
        for name in ("raw", "0.9", "0.5"):
            assert other[name]["loss"] == pytest.approx(one[name]["loss"], rel=1e-5)


@pytest.mark.multiprocess
def test_a_bad_sample_on_one_rank_is_named(two_ranks: Path) -> None:
    (row,) = read_rows(two_ranks / "poisoned" / "incidents.jsonl")
    (culprit,) = row["culprits"]
    assert (culprit["rank"], culprit["module"]) == (1, "first")
    assert [sample["id"] for sample in culprit["samples"]] == [14]
    applied: list[Any] = [r["applied"] for r in read_rows(two_ranks / "poisoned" / "metrics.jsonl")]
    assert applied == [True, False, True]


@pytest.mark.multiprocess
def test_a_rank_in_another_step_is_found() -> None:
    for text in run_ranks(2, "-c", OTHER_STEP):
        assert "while others are in another one" in text


@pytest.mark.multiprocess
def test_a_rank_that_is_astray_or_corrupt_is_found(tmp_path: Path) -> None:
    """A sample's step left out; a bit of a master that exists once; a bit of a copy, at the next check."""
    for text in run_ranks(2, "-c", ASTRAY, str(tmp_path)):
        found = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
        assert "samples that all ranks hold in step 5 are not those" in found["left-out"]
        for stage in (1, 3):
            says = "rank 1: master 0 changed between two updates, found before step 5"
            assert says in found[f"master-{stage}"]
        assert "weight frozen.weight differs between the ranks, found before step 6" in found["frozen"]
    assert [row["kind"] for row in read_rows(tmp_path / "frozen" / "incidents.jsonl")] == ["corrupt"]


@pytest.mark.multiprocess
def test_nothing_is_published_before_every_rank_has_written(tmp_path: Path) -> None:
    """Rank 1 is stopped while it writes the second checkpoint; rank 0 has long left its receipt."""
    run = f"--run={tmp_path} steps=8 save_every=3"
    ranks = start_ranks(2, PROGRAM, *f"{run} fault=save.flush@rank=1,step=5:stop".split())
    deadline = time.monotonic() + 120
    while not (receipts := list(tmp_path.glob("checkpoints/step-00000006.*/rank-00000.json"))):
        assert time.monotonic() < deadline
        assert ranks[0].poll() is None, finish(ranks)[0][1]
        time.sleep(0.02)
    ranks[1].kill()
    assert finish(ranks)[0][0] != 0  # it has waited for the other, and lost it
    assert not (receipts[0].parent / "manifest.json").exists()
    continued, _ = run_ranks(2, PROGRAM, *run.split())
    assert "continuing after step 3" in continued
    assert json.loads((tmp_path / "finished.json").read_text())["step"] == 8


@pytest.mark.multiprocess
def test_a_read_that_hangs_ends_the_run(tmp_path: Path) -> None:
    run = f"--run={tmp_path} steps=5 watchdog_s=1 fault=step.data@step=2:sleep=1000"
    ((status, text),) = finish(start_ranks(1, PROGRAM, *run.split()))
    assert status == EXIT_STATUS
    assert "nothing has moved for 1 s in step 3 (data)" in text
    assert "in _act" in (tmp_path / "logs" / "hang-rank-0.txt").read_text()  # where it hangs


def wait_until_stuck(folder: Path) -> None:
    """Until rank 0 has been in its fourth step's update for a while."""
    beat, deadline = {"step": 0, "phase": "", "since_s": 0.0}, time.monotonic() + 120
    while (beat["step"], beat["phase"]) != (3, "update") or beat["since_s"] < 0.5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):
            beat = json.loads((folder / "logs" / "heartbeat-rank-0.json").read_text())


def stop_a_rank(folder: Path, stage: int) -> None:
    arguments = f"--run={folder} steps=50 save_every=50 zero_stage={stage} watchdog_s=4"
    words = f"{arguments} fault=step.update@rank=1,step=3:stop".split()
    ranks = start_ranks(2, PROGRAM, *words, environment={"TORCH_FR_BUFFER_SIZE": "100"})
    started = time.monotonic()
    try:
        wait_until_stuck(folder)
        ranks[0].send_signal(signal.SIGUSR2)
        assert ranks[0].wait(120) == EXIT_STATUS
    finally:
        ranks[1].kill()
    text = finish(ranks)[0][1]
    assert time.monotonic() - started < 120
    report = (folder / "logs" / "hang-rank-0.txt").read_text()
    assert "in step 4 (update)" in report
    assert re.search(r"rank 1: step \d, \w+ for \d+ s; no heartbeat for \d+ s; samples", report)
    assert "in _one_step" in report
    assert text.index("rank 0: SIGUSR2: saving after step 5") < text.index("rank 0: nothing has moved")
    recorded = json.loads((folder / "logs" / "collectives-rank-0.json").read_text())["entries"]
    assert "all_reduce" in " ".join(entry["profiling_name"] for entry in recorded)
    assert not (folder / "finished.json").exists()


@pytest.mark.multiprocess
def test_a_stopped_rank_ends_the_run_with_a_report(tmp_path: Path) -> None:
    stop_a_rank(tmp_path, 2)


@pytest.mark.multiprocess
def test_a_failed_rank_does_not_wait_for_the_save_of_a_stopped_one(tmp_path: Path) -> None:
    """Its thread waits for that rank's part of the save, and would for the group's whole timeout."""
    faults = "fault=save.flush@rank=1,step=2:stop;step.data@rank=0,step=3:raise"
    ranks = start_ranks(2, PROGRAM, f"--run={tmp_path}", "timeout_s=1000.0", "watchdog_s=0", faults)
    try:
        assert ranks[0].wait(120) == 1
    finally:
        ranks[1].kill()
    text = finish(ranks)[0][1]
    assert "the last save is given up, since not all ranks have come to their end" in text
    assert "failpoint step.data raised" in text
    assert not list((tmp_path / "checkpoints").glob("*/manifest.json"))


@pytest.mark.multiprocess
def test_ranks_that_fail_alike_finish_the_save_first(tmp_path: Path) -> None:
    faults = "fault=save.flush@rank=1,step=2:sleep=1;step.data@step=3:raise"
    for code, text in finish(start_ranks(2, PROGRAM, f"--run={tmp_path}", faults)):
        assert code == 1
        assert "failpoint step.data raised" in text
        assert "given up" not in text
    assert list((tmp_path / "checkpoints").glob("step-00000003.*/manifest.json"))


@pytest.mark.multiprocess
@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_stopped_rank_ends_the_run_at_every_stage(tmp_path: Path, stage: int) -> None:
    stop_a_rank(tmp_path, stage)


@pytest.mark.multiprocess
@pytest.mark.full
def test_a_slow_network_is_not_a_slow_rank(tmp_path: Path) -> None:
    """A wait inside the update is everybody's: nobody is called a straggler for it."""
    run = f"--run={tmp_path}/run steps=4 fault=step.update:sleep=0.3"
    run_ranks(2, PROGRAM, *run.split())
    stragglers = [
        json.dumps(r.get("ranks", {}).get("straggler")) for r in read_rows(tmp_path / "run" / "metrics.jsonl")
    ]
    assert set(stragglers) == {"null"}
