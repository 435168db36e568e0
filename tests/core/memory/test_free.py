"""What is free: the smallest of device, control groups and machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.memory.free import Free, control_groups, free_memory

GB = 10**9
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def group(
    root: Path, path: str, names: tuple[str, str, str], limit: str, usage: int, cached: int = 0
) -> None:
    write(root, f"{path}/{names[0]}", f"{limit}\n")
    write(root, f"{path}/{names[1]}", f"{usage}\n")
    write(root, f"{path}/memory.stat", f"anon 5\n{names[2]} {cached}\n")


def version_2(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/slurm/job_7\n")
    group(root, "sys/fs/cgroup/slurm/job_7", V2, str(12 * GB), 4 * GB, cached=GB)


def version_1(root: Path) -> None:
    write(root, "proc/self/cgroup", "12:cpu,cpuacct:/x\n9:memory:/slurm/job_7\n0::/init\n")
    group(root, "sys/fs/cgroup/memory/slurm/job_7", V1, str(12 * GB), 4 * GB, cached=GB)
    group(root, "sys/fs/cgroup/memory", V1, str(2**63 - 4096), 30 * GB)


def tighter_parent(root: Path) -> None:
    version_2(root)
    group(root, "sys/fs/cgroup/slurm", V2, str(10 * GB), 8 * GB)


def unlimited(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/user.slice\n")
    group(root, "sys/fs/cgroup/user.slice", V2, "max", 4 * GB)


def container(root: Path) -> None:
    """Give the process a path of the host, which the container's own tree does not have."""
    write(root, "proc/self/cgroup", "0::/../../docker/abc\n")
    group(root, "sys/fs/cgroup", V2, str(8 * GB), 3 * GB)


def over_its_limit(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/\n")
    group(root, "sys/fs/cgroup", V2, str(8 * GB), 9 * GB)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (version_2, Free(9 * GB, "control group /slurm/job_7")),
        (version_1, Free(9 * GB, "control group /slurm/job_7")),
        (tighter_parent, Free(2 * GB, "control group /slurm")),
        (unlimited, Free(24 * GB, "the machine")),
        (container, Free(5 * GB, "control group /")),
        (over_its_limit, Free(0, "control group /")),
        (lambda root: None, Free(24 * GB, "the machine")),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, made, expected: Free) -> None:
    made(tmp_path)
    assert free_memory(machine=24 * GB, root=tmp_path) == expected


def test_ranks_of_a_node_share_its_memory_and_a_device_is_a_ranks_own(tmp_path: Path) -> None:
    version_2(tmp_path)
    assert free_memory(machine=24 * GB, peers=3, root=tmp_path).bytes == 3 * GB
    assert free_memory(80 * GB, peers=3, machine=24 * GB, root=tmp_path) == Free(80 * GB, "the device")


def test_files_that_are_no_numbers_are_no_limits(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "nonsense\n0::/a\n\n")
    group(tmp_path, "sys/fs/cgroup/a", V2, "twelve", 3)
    assert list(control_groups(tmp_path)) == []


def test_the_system_answers() -> None:
    assert 0 < free_memory().bytes < 1 << 50
