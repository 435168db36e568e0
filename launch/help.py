"""Help texts: the list of jobs, and everything about one job, taken from its dataclasses."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path

from core.config.fields import FieldHelp
from launch.jobs import COMMANDS, JOBS, Job

WIDTH = 110
CONTINUING = (
    "The same command continues an unfinished output. Fields marked work (how the job is carried out) or "
    "watch (what is observed) may then differ; files that a field marked place names may move, if their "
    "content is the same; all other fields decide the result and must not change."
)


def overview() -> str:
    """List all jobs, a line each; imports nothing heavy."""
    width = max(len(job.name) for job in JOBS)
    return "\n".join(
        [
            "longtake trains diffusion transformers on images and video, from raw files to samples.",
            "",
            "usage: longtake JOB [FILE.yaml ...] [SOURCE] [field=value ...] [--dry-run] [--help]",
            "",
            *(f"  {job.name:<{width}}  {job.help}" for job in JOBS),
            "",
            *(f"  {command.name:<{width}}  {command.help}" for command in COMMANDS),
            "",
            "longtake JOB --help lists the fields of a job. Start with: longtake demo",
        ]
    )


def of_job(job: Job, files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> str:
    """Describe one job: usage, examples, and every field with type, default, unit and meaning.

    files, overrides: name the kinds of sections whose fields are listed.
    """
    from core.config.loading import help_of

    module = job.load()
    fields = help_of(module.Config, files, overrides)
    continues = not job.prints and any(field.role != "result" for field in fields)
    lines = [
        f"longtake {job.name}: {job.help}",
        "",
        f"usage: longtake {job.name} [FILE.yaml ...] [SOURCE] [field=value ...] [--dry-run]",
        "",
        *textwrap.wrap(
            "Fields come from the defaults below, the files and then field=value, of which later ones win. "
            "SOURCE is short for source=SOURCE. Lists are written 1,2 or [1,2]; null is no value; 1e6 is an "
            "integer too. --dry-run prints the resolved config and what would be done, and stops.",
            WIDTH,
        ),
        "",
        "examples:",
        *(f"  {example}" for example in job.examples),
        "",
        *(inspect.getdoc(module) or "").splitlines(),
        *(["", *textwrap.wrap(CONTINUING, WIDTH)] if continues else []),
        "",
        "fields:",
    ]
    return "\n".join([*lines, *fields_text(fields)])


def fields_text(fields: Sequence[FieldHelp]) -> list[str]:
    """Lay out fields of a config with type, default, unit and meaning."""
    lines: list[str] = []
    for field in fields:
        if field.type == "section":
            lines += ["", f"  {field.path}: {field.help}"]
            continue
        facts = [field.type, *([f"unit {field.unit}"] if field.unit else [])]
        facts += [] if field.role == "result" else [field.role]
        shown = "...  (required)" if field.default == "required" else field.default
        lines.append(f"  {field.path}={shown}  <{', '.join(facts)}>")
        lines += textwrap.wrap(field.help, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines
