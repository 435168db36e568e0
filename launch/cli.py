"""`longtake JOB ...`: the command line, and how failures look to a person."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import launch

OURS = ("core", "models", "data", "tools", "launch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    0 done; 2 a mistake of the person's; 1 the work failed; 75 training ended early on a signal, or hung, and
    the same command continues it; 130 interrupted. Each is one line on standard error; any other exception
    is a bug of ours and keeps its traceback.
    """
    if foreign := foreign_package():
        print(f"longtake: {foreign}", file=sys.stderr)
        return 2
    from core.run.ending import end_with
    from launch import local

    words = list(sys.argv[1:] if arguments is None else arguments)
    if local.is_rank():
        end_with(lambda: _status(words))
    return _status(words)


def _status(words: Sequence[str]) -> int:
    """Run a command line; what a person can act on becomes a line and a status."""
    from core.errors import CONTINUABLE, EndedEarly, UserError, WorkError
    from launch import local

    local.follow_parent()
    try:
        return _execute(words)
    except UserError as error:
        return _failed(words, str(error), 2)
    except EndedEarly as end:
        return _failed(words, str(end), CONTINUABLE)
    except WorkError as error:
        return _failed(words, str(error), 1)
    except BrokenPipeError:  # the reader of our output has gone, as in `longtake train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(words, str(error), 1)
    except KeyboardInterrupt:
        return _failed(words, "interrupted", 130)


def foreign_package() -> str | None:
    """Say which of our top-level packages Python would take from somewhere else; their names are common."""
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
    from launch import arguments, help, jobs, local

    typed = arguments.parse(words)
    if not typed.job:
        print(help.overview())
        return 0
    job = jobs.find(typed.job)
    if typed.help:
        print(help.of_job(job))
        return 0
    from core.config import loading

    module = job.load()
    settings = loading.load(module.Config, typed.files, typed.overrides)
    if typed.dry_run:
        print(loading.dump(settings), end="")
        print("\n".join(f"# {line}" for line in module.plan(settings)))
        return 0
    if job.on_ranks and settings.processes > 1 and not local.is_rank():
        return local.run_on_ranks(job, settings)
    module.run(settings)
    return 0


def _failed(words: Sequence[str], message: str, status: int) -> int:
    from launch import jobs, local

    name = next((f" {word}" for word in words if any(job.name == word for job in jobs.JOBS)), "")
    local.tell(f"longtake{name}: {' '.join(message.split())}")
    return status
