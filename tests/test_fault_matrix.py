"""The fault matrix: what can go wrong in a run, and which tests make it happen.

Run: pytest tests/test_fault_matrix.py
"""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent

FAULTS = (  # what the matrix may not leave out; signals and schedulers are listed beside them
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
MATRIX = {  # fault -> the tests that make it happen
    "kill -9 at any point of a save or step": (
        "core/train/test_resume.py::test_a_kill_anywhere_is_survived",
        "core/train/test_resume.py::test_a_killed_run_equals_an_uninterrupted_one",
        "core/train/test_trainer.py::test_a_run_that_failed_anywhere_continues_exactly",
    ),
    "a slow rank while another commits": (
        "core/faults/test_faults.py::test_nothing_is_published_before_every_rank_has_written",
    ),
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
        "core/train/test_trainer.py::test_a_full_disk_is_survived_until_it_is_not",
        "core/checkpoint/test_tensor_file.py::test_a_full_disk_leaves_nothing_behind",
    ),
    "the writing thread fails, or the run ends while it writes": (
        "core/checkpoint/test_saver.py::test_an_error_of_the_thread_ends_the_run_at_the_next_save",
        "core/checkpoint/test_saver.py::test_a_save_under_way_is_finished_when_training_fails",
        "core/run/test_early_end.py::test_an_early_end_waits_for_the_save_under_way",
    ),
    "resume at another stage or number of ranks": (
        "core/engine/test_ranks_and_stages.py::test_states_load_exactly_on_other_ranks_and_stages",
        "core/train/test_trainer.py::test_continuing_on_another_stage_follows_the_same_curve",
        "core/faults/test_faults.py::test_a_run_continues_on_another_number_of_ranks",
    ),
    "frozen weights, buffers, groups, averages across resume": (
        "core/checkpoint/test_checkpoint.py::test_everything_is_restored",
    ),
    "a malicious checkpoint": (
        "core/checkpoint/test_checkpoint.py::test_no_pickle_and_a_manifest_of_all_files",
        "test_layout.py::test_nothing_is_swallowed_unpickled_or_given_to_a_shell",
    ),
    "NaN on one rank": (
        "core/engine/test_ranks_and_stages.py::test_nan_on_one_rank_skips_the_step_on_all",
        "core/faults/test_faults.py::test_a_bad_sample_on_one_rank_is_named",
        "core/faults/test_nonfinite.py::test_a_module_whose_backward_fails_is_named",
    ),
    "NaN again and again": (
        "core/faults/test_incidents.py::test_a_run_rolls_back_passes_over_and_goes_on",
        "core/faults/test_incidents.py::test_a_run_that_rolled_back_continues_exactly",
        "core/faults/test_incidents.py::test_rollbacks_are_limited",
        "core/run/test_claim.py::test_fields_that_do_not_change_the_result_are_not_compared",
        "core/run/test_early_end.py::test_amid_steps_that_are_rolled_back_later_no_checkpoint_is_made",
    ),
    "SIGTERM or SIGUSR2 during data wait, step, save, validation": (
        "core/run/test_early_end.py::test_a_signal_ends_the_run_after_a_step_and_it_continues_exactly",
        "core/run/test_early_end.py::test_a_signal_breaks_validation_off_and_it_is_made_up_for",
        "core/run/test_early_end.py::test_before_the_first_step_it_ends_at_once",
        "core/run/test_early_end.py::test_one_rank_of_two_is_asked_and_both_end_alike",
        "integration/test_early_end.py::test_signals_at_random_moments_cost_nothing",
        "integration/test_early_end.py::test_torchrun_passes_the_signal_on",
    ),
    "SIGUSR2 twice, SIGUSR2 then SIGTERM": ("core/run/test_early_end.py::test_several_signals_are_one",),
    "SIGUSR2 while blocked in a collective": (
        "core/faults/test_faults.py::test_a_stopped_rank_ends_the_run_with_a_report",
    ),
    "a rank dies": (
        "launch/test_local.py::test_a_rank_that_dies_brings_down_one_that_waits_for_it_within_10_s",
        "core/train/test_resume.py::test_a_killed_run_equals_an_uninterrupted_one",
    ),
    "a rank is stopped, a deadlock": (
        "core/faults/test_faults.py::test_a_stopped_rank_ends_the_run_with_a_report",
        "core/faults/test_faults.py::test_a_stopped_rank_ends_the_run_at_every_stage",
        "core/train/test_resume.py::test_a_stopped_rank_ends_the_others_within_the_timeout",
    ),
    "a rank leaves a step out": (
        "core/faults/test_faults.py::test_a_rank_that_is_astray_or_corrupt_is_found",
        "core/faults/test_faults.py::test_a_rank_in_another_step_is_found",
    ),
    "a slow rank": (
        "core/faults/test_faults.py::test_a_straggler_is_reported_and_training_goes_on",
        "integration/test_stragglers.py::test_a_rank_that_computes_longer_in_its_forward_pass_is_named",
    ),
    "a shard missing, cut off or damaged": (
        "data/dataset/test_damage.py::test_the_damaged_shard_is_named_and_no_other",
        "data/dataset/test_damage.py::test_every_read_gives_the_sample_or_an_error",
        "data/latent/test_reading.py::test_a_missing_part_is_named_at_the_start",
    ),
    "a corrupt or huge image": (
        "data/media/test_images.py::test_damage_gives_a_picture_or_a_media_error_of_one_line",
        "data/media/test_images.py::test_png_that_claims_60000_by_60000_pixels_is_refused_before_decoding",
        "data/loading/test_pixels.py::test_a_damaged_sample_keeps_its_slot_with_weight_0",
        "data/loading/test_pixels.py::test_the_budget_stops_the_job",
        "data/media/test_decoding_memory.py::test_a_small_file_that_unpacks_to_much_takes_no_memory",
    ),
    "hostile members": (
        "data/dataset/test_damage.py::test_hostile_members_are_set_aside_and_do_nothing",
        "data/dataset/test_damage.py::test_names_in_a_manifest_cannot_lead_out",
        "data/dataset/test_remote.py::test_other_schemes_are_refused",
    ),
    # Training reads in threads: there is no worker to kill, and a read that hangs ends the run as a hang;
    # the same command continues it. When a process that encodes dies, others take its shards over.
    "a worker killed, a read that hangs": (
        "tools/encode/test_workers.py::test_a_worker_process_that_is_killed_does_not_end_the_command",
        "core/faults/test_faults.py::test_a_read_that_hangs_ends_the_run",
        "data/dataset/test_damage.py::test_a_pipe_in_place_of_a_tar_is_refused_and_not_waited_for",
    ),
    "storage that fails": (
        "data/dataset/test_retry.py::test_storage_that_fails_now_and_then_gives_the_same_batches",
        "data/dataset/test_retry.py::test_storage_that_is_down_ends_the_work_after_growing_waits",
        "data/dataset/test_shard_cache.py::test_a_failed_download_leaves_nothing",
        "tools/encode/test_workers.py::test_a_shard_that_fails_again_and_again_is_named_and_repaired",
    ),
    "fewer samples than ranks, uneven splits": (
        "data/loading/test_loader.py::test_a_step_is_the_same_for_any_world_and_micro_batch",
        "data/loading/test_loader.py::test_ranks_that_do_not_divide_a_group_are_refused",
        "data/order/test_order.py::test_a_bucket_smaller_than_its_group_repeats_by_epochs",
    ),
    "wandb down": (
        "core/metrics/trackers/test_wandb_view.py::test_training_is_the_same_whatever_wandb_does",
        "core/metrics/trackers/test_wandb_view.py::test_rows_that_are_not_taken_are_left_out_with_one_warning",
        "core/metrics/trackers/test_wandb_view.py::test_every_step_is_shown_once_under_one_identity",
    ),
    "config or data changed on resume": (
        "core/train/test_trainer.py::test_other_data_is_refused_on_resume",
        "core/train/test_trainer.py::test_other_versions_are_told_of_on_resume",
        "integration/test_train.py::test_a_finished_run_is_left_alone_and_another_config_is_refused",
    ),
    "an abort after success": (
        "launch/test_local.py::test_an_abort_after_the_end_marker_is_no_failure",
        "launch/test_local.py::test_exit_status_is_not_the_sign_of_success",
        "core/train/test_trainer.py::test_a_finished_run_is_left_alone_however_its_process_ended",
    ),
    "silent corruption": (
        "core/train/test_corruption.py::test_a_bit_that_turns_over_ends_the_run",
        "core/train/test_corruption.py::test_arithmetic_that_is_wrong_once_is_found",
        "core/train/test_corruption.py::test_replicas_that_differ_are_found",
        "core/faults/test_faults.py::test_a_rank_that_is_astray_or_corrupt_is_found",
    ),
}


def test_every_fault_has_its_tests() -> None:
    assert set(FAULTS) - set(MATRIX) == set()
    for fault, tests in MATRIX.items():
        for test in tests:
            file, _, name = test.rpartition("::")
            text = (TESTS / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{fault}: {test} does not exist"
