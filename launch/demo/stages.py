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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import terminal
from core.errors import CONTINUABLE, EndedEarly, UserError, WorkError
from core.escaping import escaped_line
from core.files import fingerprint, sha256_file, write_json
from core.progress import duration, say
from core.root import import_path

STOP_TIMEOUT_S = 30.0


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
    always: run again even if it has finished (it is quick, and tells of the others).
    """

    name: str
    commands: Callable[[], Sequence[Command]]
    always: bool = False


@dataclass
class Record:
    """The record of the stages that ran; `save` publishes it after each."""

    path: Path
    header: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self) -> None:
        write_json(self.path, {**self.header, "stages": list(self.stages.values())})


def run_stages(stages: Sequence[Stage], record: Record, logs: Path) -> None:
    """Run the stages that are not finished; WorkError names one that failed, UserError one that refused.

    One is finished if its commands and recipes are those that made what is there, the files that complete it
    are as it left them, and so were those of all stages before it: its job then sees what it was made from.
    """
    start = time.monotonic()
    inputs: list[str] = []  # hashes of the files that completed the stages before
    for number, stage in enumerate(stages, 1):
        commands = stage.commands()
        label = f"stage {number} of {len(stages)}: {stage.name}"
        identity = fingerprint([[command.text(), *map(sha256_file, command.files)] for command in commands])
        before = record.stages.get(stage.name, {})
        finished = before.get("identity") == identity and _is_as_left(before, commands, inputs)
        if finished and not stage.always:
            say(f"{label}: finished earlier, in {duration(before['seconds'])}")
            inputs += _hashes(commands)
            continue
        say(f"{label} ({duration(time.monotonic() - start)} so far)")
        begin = time.monotonic()
        entry: dict[str, Any] = {
            "name": stage.name,
            "commands": [command.text() for command in commands],
            "identity": "",
        }
        try:
            for command in commands:
                run_command(command, label, logs / f"{stage.name}.log")
            entry |= {"identity": identity, "inputs": list(inputs), "outcome": _hashes(commands)}
        finally:
            # An interrupted stage is continued by its job, so its time adds up.
            earlier = 0.0 if before.get("identity") else before.get("seconds", 0.0)
            seconds = earlier + time.monotonic() - begin
            record.stages[stage.name] = {**entry, "seconds": round(seconds, 2)}
            record.save()
        inputs += _hashes(commands)


def _is_as_left(before: Mapping[str, Any], commands: Sequence[Command], inputs: Sequence[str]) -> bool:
    """Return whether a stage's results exist, and they and those before it are the ones that it recorded.

    An earlier version noted none: what is there is taken then.
    """
    if not all(command.done.exists() for command in commands):
        return False
    return before.get("inputs", inputs) == inputs and before.get("outcome") in (None, _hashes(commands))


def _hashes(commands: Sequence[Command]) -> list[str]:
    return [sha256_file(command.done) for command in commands]


def run_command(command: Command, label: str, log: Path) -> None:
    """Run a command, copying all it prints to `log` and to standard error."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": import_path()}
    words = [sys.executable, "-m", "launch", *command.arguments()]
    with open(log, "ab", buffering=0) as file:
        file.write(f"$ {command.text()}\n".encode())
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        try:
            last = _copy_lines(process, label, file)
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


def _copy_lines(process: subprocess.Popen[str], label: str, log: Any) -> str:
    """Show each line as it comes (on a terminal in place of the one before); return the last."""
    assert process.stdout is not None
    last, on_terminal = "", terminal.is_terminal()
    for line in process.stdout:
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
