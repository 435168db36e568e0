"""Run a chain of jobs, each as a command a person can repeat; finished ones are found and skipped."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import terminal
from core.errors import CONTINUABLE, EndedEarly, UserError, WorkError
from core.escaping import escaped_line
from core.files import fingerprint, sha256_file
from core.progress import duration, say
from core.root import import_path
from launch.child_jobs import start_child
from launch.demo.stage_records import Record

STOP_TIMEOUT_S = 30.0
SHOW_PERIOD_S = 15.0
OF_OTHERS = (
    "was finished with other settings, or the recipe of an earlier version, and stays as it is, with its "
    "report: take another output=, or begin anew with overwrite=true"
)


@dataclass(frozen=True)
class Command:
    """One job: its config files, its fields, and the file that exists once it has finished."""

    job: str
    fields: Mapping[str, object]
    done: Path
    files: Sequence[Path] = ()

    def arguments(self) -> list[str]:
        """Return the words after `python -m launch`."""
        shown = [_shortest(file) for file in self.files]
        return [self.job, *shown, *(f"{name}={value}" for name, value in self.fields.items())]

    def text(self) -> str:
        """Return the command as one would type it."""
        return shlex.join(["python", "-m", "launch", *self.arguments()])


@dataclass(frozen=True)
class Stage:
    """A named step of the chain.

    commands: asked for when the stage's turn comes, as they may depend on what earlier ones made.
    """

    name: str
    commands: Callable[[], Sequence[Command]]


def run_stages(
    stages: Sequence[Stage], record: Record, logs: Path, show: Callable[[], None] = lambda: None
) -> None:
    """Run the stages that are not finished; WorkError names one that failed, UserError one that refused.

    One is finished if its commands and recipes are those that made what is there, the files that complete it
    are as it left them, and so were those of all stages before it: its job then sees what it was made from.
    show: called whenever the record has changed, and every SHOW_PERIOD_S while a command runs.
    """
    start = time.monotonic()
    inputs: list[str] = []  # hashes of the files that completed the stages before
    record.header["planned"] = [stage.name for stage in stages]
    for number, stage in enumerate(stages, 1):
        commands = _commands_of(stage, record, show)
        label = f"stage {number} of {len(stages)}: {stage.name}"
        identity = fingerprint([[command.text(), *map(sha256_file, command.files)] for command in commands])
        before = record.stages.get(stage.name, {})
        finished = before.get("identity") == identity and _is_as_left(before, commands, inputs)
        if finished:
            say(f"{label}: finished earlier, in {duration(before['seconds'])}")
        else:
            say(f"{label} ({duration(time.monotonic() - start)} so far)")
            work = _Work(stage.name, label, identity, list(inputs), before)
            _run_stage(work, commands, record, logs, show)
        inputs += _hashes(commands)


def _commands_of(stage: Stage, record: Record, show: Callable[[], None]) -> Sequence[Command]:
    """Return the commands of a stage; the record says why there are none for what earlier ones made."""
    try:
        return stage.commands()
    except (UserError, WorkError) as error:
        none = {"name": stage.name, "commands": [], "identity": "", "seconds": 0.0}
        _note(record, stage.name, {**none, "error": str(error)}, show)
        raise


def _note(record: Record, name: str, entry: Mapping[str, Any], show: Callable[[], None]) -> None:
    """Record how a stage stands, and show it."""
    record.stages[name] = dict(entry)
    record.save()
    show()


@dataclass(frozen=True)
class _Work:
    """A stage whose turn has come.  inputs: hashes of what it reads.  before: its record, {} if it is new."""

    name: str
    label: str
    identity: str
    inputs: list[str]
    before: Mapping[str, Any]

    @property
    def is_another(self) -> bool:
        """Return whether it had finished by other commands or another recipe."""
        return self.before.get("identity", "") not in ("", self.identity)


def _run_stage(
    work: _Work, commands: Sequence[Command], record: Record, logs: Path, show: Callable[[], None]
) -> None:
    """Run the commands of a stage; the record says that it runs, and then how it ended."""
    begin = time.monotonic()
    # An interrupted stage is continued by its job, so its time adds up.
    earlier = 0.0 if work.before.get("identity") else work.before.get("seconds", 0.0)
    entry: dict[str, Any] = {
        "name": work.name,
        "commands": [command.text() for command in commands],
        "identity": "",
    }

    def publish(**ending: Any) -> None:
        seconds = round(earlier + time.monotonic() - begin, 2)
        _note(record, work.name, {**entry, "seconds": seconds, **ending}, show)

    was_there = [command.done for command in commands if command.done.exists()]
    publish()
    try:
        for command in commands:
            run_command(command, work.label, logs / f"{work.name}.log", show)
        made = {"identity": work.identity, "inputs": work.inputs, "outcome": _hashes(commands)}
    except BaseException as error:
        if isinstance(error, UserError) and was_there and work.is_another:
            _note(record, work.name, work.before, show)
            raise UserError(f"{work.label}: {was_there[0].parent} {OF_OTHERS}; {error}") from None
        publish(error=str(error) or type(error).__name__)
        raise
    publish(**made)


def _is_as_left(before: Mapping[str, Any], commands: Sequence[Command], inputs: Sequence[str]) -> bool:
    """Return whether a stage's results exist, and they and those before it are the ones that it recorded.

    An earlier version noted none: what is there is taken then.
    """
    if not all(command.done.exists() for command in commands):
        return False
    return before.get("inputs", inputs) == inputs and before.get("outcome") in (None, _hashes(commands))


def _hashes(commands: Sequence[Command]) -> list[str]:
    return [sha256_file(command.done) for command in commands]


def run_command(command: Command, label: str, log: Path, show: Callable[[], None] = lambda: None) -> None:
    """Run a command, copying all it prints to `log` and to standard error; `show` as of `run_stages`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": import_path()}
    words = [sys.executable, "-m", "launch", *command.arguments()]
    with open(log, "ab", buffering=0) as file:
        file.write(f"$ {command.text()}\n".encode())
        process = start_child(words, environment)
        try:
            last = _copy_lines(process, label, file, show)
            status = process.wait()
        finally:
            _stop(process)
    if status == CONTINUABLE:
        raise EndedEarly(f"{label} ended early: {last}; the same command continues it")
    if status != 0:
        message = f"{label} failed (exit status {status}): {last}; command: {command.text()}; log: {log}"
        raise UserError(message) if status == 2 else WorkError(message)
    if not command.done.exists():
        raise WorkError(f"{label} did not write {command.done}; command: {command.text()}; log: {log}")


def _copy_lines(process: subprocess.Popen[str], label: str, log: Any, show: Callable[[], None]) -> str:
    """Show each line as it comes (on a terminal in place of the one before); return the last."""
    assert process.stdout is not None
    last, on_terminal, shown = "", terminal.is_terminal(), time.monotonic()
    for line in process.stdout:
        if time.monotonic() - shown >= SHOW_PERIOD_S:  # jobs at long work print a line every 5 s
            show()
            shown = time.monotonic()
        with contextlib.suppress(OSError):  # a full disk: the jobs' own files are the record
            log.write(line.encode())
        last = line.strip() or last
        if on_terminal:
            columns = shutil.get_terminal_size().columns
            terminal.tell(escaped_line(f"{label}: {last}")[: columns - 1], end="", clear=True)
        else:
            terminal.tell(f"    {line.rstrip()}")
    if on_terminal:
        terminal.tell("", end="", clear=True)
    return last


def _stop(process: subprocess.Popen[str]) -> None:
    """End a command that still runs because we are leaving (Ctrl-C, an error): ask, then kill."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _shortest(path: Path) -> str:
    """Return the path, relative to the current folder if it lies inside, for commands that people read."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
