"""What numeric libraries are told before they are imported.

Run: pytest tests/launch/test_libraries.py
"""

from __future__ import annotations

import os

import pytest

from launch import libraries


def test_libraries_compute_in_the_threads_of_a_task_unless_a_person_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    libraries.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    task = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
    for name, value in {**task, "SLURM_CPUS_PER_TASK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16), raising=False)
    libraries.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    libraries.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_the_allocator_grows_its_segments_unless_a_person_set_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    libraries.prepare_allocator()
    assert "PYTORCH_ALLOC_CONF" not in os.environ
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    libraries.prepare_allocator()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "garbage_collection_threshold:0.8")
    libraries.prepare_allocator()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "garbage_collection_threshold:0.8"
