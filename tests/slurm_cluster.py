"""A real SLURM of two virtual nodes on this machine, for the tests marked `slurm`.

`slurmctld`, one `slurmd` a node and `munged` run on free ports, with all their files in one folder; only what
was started here is stopped, by its process id. Both nodes share the machine's name, so a node is told by
SLURMD_NODENAME. Several clusters may run at once: each numbers its jobs from its port times 1000 on.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from core.environment import without_launcher

NODES = ("n0", "n1")
DAEMONS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue", "scancel")
SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin"

CONFIG = """
ClusterName=longtake
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={ports[0]}
FirstJobId={ports[0]}000
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
KillWait=10
SlurmdTimeout=60
MinJobAge=300
MpiDefault=none
SwitchType=switch/none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=4000
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=4000
PartitionName=debug Nodes=n0,n1 Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing() -> list[str]:
    """Say which programs of SLURM are missing on this machine, and what else prevents a cluster."""
    search = f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}"
    found = [name for name in DAEMONS if shutil.which(name, path=search) is None]
    return found or (["root, who alone may start slurmd"] if os.getuid() else [])


END_WITH = """
import os, pathlib, select, signal, sys
ended = select.poll()
ended.register(os.pidfd_open(int(sys.argv[1])), select.POLLIN)
ended.poll()
for file in pathlib.Path(sys.argv[2]).glob("*.pid"):
    try:
        os.kill(int(file.read_text()), signal.SIGTERM)
    except (OSError, ValueError):
        pass  # it has ended, or had not begun
"""


class Cluster:
    """A running cluster.  environment: of commands that talk to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[int] = []
        path = f"{os.environ['PATH']}:{SYSTEM_FOLDERS}"
        outside = without_launcher(os.environ)
        self.environment = {**outside, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle; they end with this process in any case."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # munged refuses a socket that others cannot reach
        _name_nodes()
        words = [sys.executable, "-I", "-S", "-c", END_WITH, str(os.getpid()), str(self.folder)]
        self._watcher = subprocess.Popen(words, start_new_session=True)
        self._start_munge()
        user, host, ports = _user(), socket.gethostname().partition(".")[0], _free_ports(3)
        text = CONFIG.format(user=user, host=host, folder=self.folder, ports=ports)
        (self.folder / "slurm.conf").write_text(text)
        if self._version() >= (23, 11):
            (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (self.folder / "state").mkdir(exist_ok=True)
        self._start("slurmctld.pid", "slurmctld", "-f", str(self.folder / "slurm.conf"))
        for node in NODES:
            (self.folder / f"spool-{node}").mkdir(exist_ok=True)
            self._start(f"slurmd-{node}.pid", "slurmd", "-f", str(self.folder / "slurm.conf"), "-N", node)
        until(lambda: self.tell("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == str(len(NODES)), 60)

    def stop(self) -> None:
        """End all jobs and the daemons."""
        for job in self.tell("squeue", "-h", "-o", "%i").split():
            self.tell("scancel", "--signal=KILL", "--full", job)
            self.tell("scancel", job)
        for pid in reversed(self._daemons):
            with_pid(pid, signal.SIGTERM)
        for pid in self._daemons:
            until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 30)  # type: ignore[misc]
        self._watcher.kill()
        self._watcher.wait()

    def run(self, *command: str) -> str:
        """Return the output of a command, which must succeed."""
        return subprocess.run(
            command, env=self.environment, check=True, capture_output=True, text=True, timeout=120
        ).stdout

    def tell(self, *command: str) -> str:
        """Return the output of a command, whether it succeeds or not: a job may have ended by then."""
        return subprocess.run(
            command, env=self.environment, check=False, capture_output=True, text=True, timeout=120
        ).stdout

    def state(self, job: str) -> str:
        """Return the state of a job, such as RUNNING."""
        found = re.search(r"JobState=(\w+)", self.tell("scontrol", "show", "job", job))
        return found[1] if found else "GONE"

    def tasks(self, job: str, word: str) -> dict[int, int]:
        """Return {rank: process id} of a job's ranks whose command line contains `word`."""
        found = {}
        for entry in Path("/proc").iterdir():
            variables = _variables(entry) if entry.name.isdigit() else {}
            is_task = variables.get("SLURM_JOB_ID") == job and "SLURM_STEP_ID" in variables
            if is_task and word in _command(entry):
                found[int(variables["SLURM_PROCID"])] = int(entry.name)
        return found

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid"}
        names |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        words = [f"--{option}={self.folder / name}" for option, name in names.items()]
        self._start("munged.pid", "munged", "--force", *words)

    def _start(self, pid_file: str, *command: str) -> None:
        self.run(*command)
        path = self.folder / pid_file
        until(lambda: path.exists() and path.read_text().strip().isdigit(), 30)
        self._daemons.append(int(path.read_text()))

    def _version(self) -> tuple[int, ...]:
        numbers = re.search(r"(\d+)\.(\d+)", self.run("slurmctld", "-V"))
        assert numbers is not None
        return int(numbers[1]), int(numbers[2])


def until(condition: Callable[[], object], limit_s: float, tell: Callable[[], object] = lambda: "") -> None:
    """Wait for what other processes do; fails with what `tell` says after so many seconds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, tell()
        time.sleep(0.05)


def with_pid(pid: int, number: signal.Signals) -> None:
    """Signal a process, which may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _name_nodes() -> None:
    """Have the nodes' names resolve, as those of a node list do."""
    hosts = Path("/etc/hosts")
    known = hosts.read_text().split()
    if lacking := [node for node in NODES if node not in known]:
        with open(hosts, "a") as file:
            file.write("".join(f"127.0.0.1 {node}\n" for node in lacking))


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _variables(process: Path) -> Mapping[str, str]:
    try:
        text = (process / "environ").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return {}
    return dict(item.split("=", 1) for item in text.split("\0") if "=" in item)


def _command(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
