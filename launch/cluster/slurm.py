"""SLURM's commands, and submitit on the way to `sbatch`. Nothing needs `sacct`, which many sites lack."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import UserError, WorkError
from launch.cluster.config import ClusterConfig

TIMEOUT_S = 60.0  # for one command
SOON_S = 4.0  # for one that has to answer before SLURM kills this process (KillWait, 30 s by default)
WAITS_S = (
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
    60.0,
)  # a controller may be away for minutes, in a restart or a failover
_GONE = re.compile(
    r"Invalid job id|Job \S+ not found|already completing or completed|Job/step already completing"
)


def require(config: ClusterConfig) -> None:
    """Raise UserError if this machine has no SLURM, or SLURM no such partition, or not as many nodes.

    Where a site does not enforce limits at submission, sbatch accepts more nodes than there are, and the job
    waits for ever.
    """
    if shutil.which("sbatch") is None:
        expected = "local or inline, since there is no sbatch on this machine"
        raise UserError("cluster.kind", "slurm", expected)
    partitions: dict[str, int] = {}
    for line in command(["sinfo", "--noheader", "--format", "%P %D"]).splitlines():
        name, count = line.split()
        for known in {name.rstrip("*"), "" if name.endswith("*") else name}:
            partitions[known] = partitions.get(known, 0) + int(count)
    wanted = config.partition.split(",")
    if unknown := [name for name in wanted if name and name not in partitions]:
        names = ", ".join(sorted(filter(None, partitions)))
        raise UserError("cluster.partition", unknown[0], f"one of {names}")
    most = max((partitions[name] for name in wanted if name in partitions), default=config.nodes)
    if config.nodes > most:
        where = f"partition {config.partition}" if config.partition else "the default partition"
        raise UserError("cluster.nodes", config.nodes, f"at most {most}, the nodes of {where}")


def command(
    words: Sequence[str],
    *,
    waits_s: Sequence[float] = WAITS_S,
    timeout_s: float = TIMEOUT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Return the output of one of SLURM's commands, retried while the controller does not answer.

    '' for a job that SLURM does not know (any more). WorkError when it has failed for good.
    """
    reason = ""
    for wait_s in (*waits_s, 0.0):
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            reason = f"no answer within {timeout_s:.0f} s"
        except FileNotFoundError:
            raise WorkError(f"{words[0]} is not on this machine") from None
        else:
            if done.returncode == 0:
                return done.stdout
            said = done.stderr + done.stdout  # scontrol tells on the latter that a task of an array is gone
            if _GONE.search(said):
                return ""
            reason = (said.strip().splitlines() or [f"status {done.returncode}"])[-1]
        sleep(wait_s)
    raise WorkError(f"{' '.join(words)}: {reason}")


def job_facts(job: str, timeout_s: float = TIMEOUT_S) -> dict[str, str]:
    """Return what `scontrol show job` says; {} for a job that SLURM does not know (any more)."""
    text = command(["scontrol", "show", "job", "--oneliner", job], waits_s=WAITS_S[:2], timeout_s=timeout_s)
    return dict(re.findall(r"(\w+)=(\S*)", text))


def reached_its_limit(job: str) -> bool | None:
    """Return whether SLURM ends the job because its time is over, and not because a user cancels it.

    None where the controller does not answer.
    """
    try:
        return job_facts(job, SOON_S).get("Reason") == "TimeLimit"
    except WorkError:
        return None


def jobs_named(name: str) -> list[str]:
    """Return the jobs of that name that have not ended."""
    return command(["squeue", "--noheader", "--me", "--name", name, "--format", "%i"]).split()


def requeue(job: str) -> None:
    """Have SLURM start the job again, which soon ends this process; WorkError where it will not."""
    command(["scontrol", "requeue", job])


def leave_out(job: str, nodes: str) -> None:
    """Have the next start of a job that was requeued avoid some nodes; WorkError where SLURM refuses.

    Of a job that runs SLURM changes no list of nodes.
    """
    command(["scontrol", "update", f"jobid={job}", f"ExcNodeList={nodes}"])


def cancel(job: str) -> None:
    """End the job; its ranks get SIGTERM, and time to save."""
    command(["scancel", job])


def parameters(config: ClusterConfig, name: str, after: Sequence[str], code: Path) -> dict[str, Any]:
    """Return the settings that submitit is to write into the batch script.

    The supervisor takes the shell's place (`exec`, see `script_python`), so that the signal before the end,
    which SLURM sends to the batch script alone (`B:`), reaches it.
    """
    more: dict[str, Any] = {"signal": f"B:USR2@{config.signal_s}", "requeue": True}
    if after:
        more |= {"dependency": "afterok:" + ":".join(after), "kill-on-invalid-dep": "yes"}
    if config.memory_gib is not None:
        more["mem"] = f"{config.memory_gib}G" if config.memory_gib else "0"
    for field in config.sbatch:
        key, equals, value = field.removeprefix("--").partition("=")
        more[key] = value if equals else True
    setup = [
        *(f"export {field.partition('=')[0]}=${{{_defaulted(field)}}}" for field in config.environment),
        *config.setup,
        f"export PYTHONPATH={_quoted(str(code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
    ]
    found = {
        "job_name": name,
        "nodes": config.nodes,
        "ntasks_per_node": config.tasks_per_node,
        "cpus_per_task": config.cpus_per_task,
        "time": config.minutes,
        "partition": config.partition or None,
        "account": config.account or None,
        "qos": config.qos or None,
        "constraint": config.constraint or None,
        "exclude": config.exclude or None,
        "nodelist": config.nodelist or None,
        "gpus_per_node": config.gpus_per_node or None,
        "gres": config.gres or None,
        "wckey": config.wckey or None,
        "stderr_to_stdout": True,
        "setup": setup,
        "use_srun": False,
        "array_parallelism": config.array_limit or max(1, config.array),
        "additional_parameters": more,
    }
    return found


def script_python() -> str:
    """Return how the batch script starts Python."""
    return f"exec {_quoted(sys.executable)}"


def script_text(folder: Path, found: Mapping[str, Any]) -> str:
    """Return the batch script as submitit would write it."""
    from submitit.slurm.slurm import _make_sbatch_string

    start = f"{script_python()} -u -m submitit.core._submit {_quoted(str(folder))}"
    return str(_make_sbatch_string(command=start, folder=folder, **found))


def submit(function: Callable[[int], Any], folder: Path, found: Mapping[str, Any], *, tasks: int = 0) -> str:
    """Queue a job that calls `function(0)`, or an array whose tasks call it with their numbers.

    Returns the job's number, without that of a task.  UserError with sbatch's words where it refuses.
    """
    import submitit

    executor = submitit.SlurmExecutor(folder, python=script_python())
    executor.update_parameters(**found)
    try:
        jobs = executor.map_array(function, range(tasks)) if tasks > 1 else [executor.submit(function, 0)]
    except submitit.core.utils.FailedJobError as error:
        said = re.findall(r"sbatch: error: (.*)", str(error)) or [str(error).strip().splitlines()[-1]]
        raise UserError(f"sbatch refused the job: {'; '.join(said)}") from None
    return str(jobs[0].job_id).partition("_")[0]


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _defaulted(field: str) -> str:
    name, _, value = field.partition("=")
    return f"{name}-{_quoted(value)}"
