"""`longtake JOB ...`: the command line, and how failures are shown to a person."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import launch

if TYPE_CHECKING:
    from core.run.ends import Kind
    from launch.arguments import Arguments
    from launch.jobs import Job

CLUSTER = "cluster"  # section that only a submission reads
OURS = ("core", "models", "data", "tools", "launch")


def program() -> NoReturn:
    """Do what `main` does, as a process of its own, and end it."""
    if foreign_package() is not None:
        sys.exit(main())  # which says so
    from core.run.ending import end_without_teardown

    end_without_teardown(main)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    0 done; 2 wrong usage or config; 1 the work failed; 75 the job ended early on a signal, or training hung,
    and the same command continues it; 130 interrupted. Each is one line on standard error; any other
    exception is a bug of this program and keeps its traceback.
    arguments: None are those of this process, whose signals are answered from here on (docs/signals.md).
    """
    if foreign := foreign_package():
        print(f"longtake: {foreign}", file=sys.stderr)
        return 2
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        from core import terminal
        from core.reading import open_files
        from core.run import signals
        from launch.endings import answer_for

        terminal.survive()
        open_files.raise_limit()
        signals.take_over(answer_for(words))
    from core import environment
    from core.run.ending import end_with

    if environment.has_peers():
        end_with(lambda: _settled(words))
    return _settled(words)


def _settled(words: Sequence[str]) -> int:
    """Run a command line; once its status is known, no signal changes it."""
    from core.run import signals

    status = _status(words)
    signals.settle()
    return status


def _status(words: Sequence[str]) -> int:
    """Run a command line, and tell a supervisor how it ended."""
    from core.run import ends

    ends.begin()
    try:
        status = _with_lines(words)
    except BaseException as error:
        ends.record(ends.kind_of(error), 1, f"{type(error).__name__}: {error}")
        raise
    ends.record("error" if status else "done", status, "")
    return status


def _with_lines(words: Sequence[str]) -> int:
    """Run a command line; what a person can act on becomes a line and a status."""
    from core.errors import CONTINUABLE, PEER_LOST, EndedEarly, UserError, WorkError
    from core.reading.open_files import message_of
    from core.run import ends
    from launch import local

    local.follow_parent()
    try:
        return _execute(words)
    except UserError as error:
        return _failed(words, str(error), 2)
    except EndedEarly as end:
        return _failed(words, str(end), CONTINUABLE, ends_last=True)
    except WorkError as error:
        return _failed(words, str(error), 1)
    except BrokenPipeError:  # the reader of our output has gone, as in `longtake train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(words, message_of(error), 1)
    except RuntimeError as error:
        if ends.kind_of(error) != "peer":
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return _failed(words, f"ended because another rank has: {reason}", PEER_LOST, kind="peer")
    except KeyboardInterrupt:
        return _failed(words, "interrupted", 130)


def foreign_package() -> str | None:
    """Report which of this project's top-level packages Python would import from elsewhere.

    Their names are common.
    """
    # Not core.root, since `core` may be the foreign one.
    house = Path(launch.__file__).resolve().parent.parent
    for name in OURS:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve().parent.parent != house:
            found = spec.origin if spec else "nowhere"
            return (
                f"the package `{name}` must be {house / name}, but Python finds {found}; "
                "run from another folder, or install longtake in a virtual environment of its own"
            )
    return None


def _execute(words: Sequence[str]) -> int:
    from core import environment, terminal
    from core.errors import UserError
    from core.reading import open_files
    from launch import arguments, help, jobs, libraries, local

    for word in words:
        if not word.isprintable() and word != word.encode(errors="replace").decode():
            raise UserError(f"{word!a}: a word that is not UTF-8 text")
    for command in jobs.COMMANDS:
        if words and words[0] == command.name:
            return int(command.load().main(words[1:]))
    place = environment.place()
    libraries.limit_threads()
    libraries.prepare_allocator()
    typed = arguments.parse(words, jobs.SEVERAL)
    if not typed.job:
        terminal.deliver(help.overview())
        return 0
    job = jobs.find(typed.job)
    if typed.help:
        terminal.deliver(help.of_job(job, typed.files, typed.overrides))
        return 0
    open_files.require_enough()
    from core.config.loading import dump
    from core.escaping import escaped_line

    module = job.load()
    settings = _settings(job, module, typed)
    if typed.dry_run:
        terminal.deliver(dump(settings), end="")
        terminal.deliver("\n".join(escaped_line(f"# {line}") for line in module.plan(settings)))
        _require_continuable(job, settings)
        return 0
    if place.size > 1 and not (job.on_ranks or job.shares):
        expected = f"1, since {job.name} runs in one process" + (
            ", which starts the others (processes=N)" if hasattr(settings, "processes") else ""
        )
        raise UserError(f"{place.starter} tasks", place.size, expected)
    if not job.prints:
        terminal.survive_output()
    return local.do(job, settings)


def _require_continuable(job: Job, settings: Any) -> None:
    """Raise UserError, naming every field, where the job would not go on with what its output holds.

    Settings are compared; what places hold is for the job to look at.
    """
    from core.run.claim import has_begun, require_same_settings

    output = Path(getattr(settings, "output", ""))
    if not hasattr(settings, "overwrite") or (job.done and not has_begun(output, job.done)):
        return  # a run that failed before its first step may be corrected
    require_same_settings(output, settings, job.may_grow(settings))


def _settings(job: Job, module: Any, typed: Arguments) -> Any:
    """Return the config of a job, and say of files of a cluster what is not used of them here."""
    from core.config import loading
    from core.config.yaml_files import read_yaml
    from core.errors import UserError
    from core.progress import say

    try:
        settings = loading.load(module.Config, typed.files, typed.overrides, beside=(CLUSTER,))
    except UserError as error:
        if not str(error).startswith((f"{CLUSTER}: no such", f"{CLUSTER}.")):
            raise
        raise UserError(
            f"{CLUSTER}: a section of `longtake submit {job.name} ...`, and `longtake {job.name}` runs here"
        ) from None
    for file in typed.files:
        section = read_yaml(file).get(CLUSTER)
        if section is None:
            continue
        tasks = section.get("tasks_per_node", 1) if isinstance(section, dict) else 1
        many = job.on_ranks and getattr(settings, "processes", 0) == 1 and tasks != 1
        hint = f"; processes={tasks} takes as many here as it has on a node" if many else ""
        say(
            f"{file}: its section `{CLUSTER}` is for `longtake submit {job.name} ...`, and is not used by "
            f"what runs here{hint}"
        )
    return settings


def _failed(
    words: Sequence[str], message: str, status: int, *, ends_last: bool = False, kind: Kind | None = None
) -> int:
    from core.errors import CONTINUABLE
    from core.run import ends
    from core.run.last_line import repeat_after_torchrun, tell
    from launch import jobs

    names = {entry.name for entry in (*jobs.COMMANDS, *jobs.JOBS)}
    name = next((f" {word}" for word in words if word in names), "")
    line = f"longtake{name}: {' '.join(message.split())}"
    tell(line, failed=status != CONTINUABLE)
    by_status: dict[int, Kind] = {2: "refused", 1: "work"}
    ends.record(kind or by_status.get(status, "asked"), status, line)
    if ends_last:
        repeat_after_torchrun(line)
    return status
