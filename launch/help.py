"""Help texts: the list of jobs, and everything about one job, taken from its dataclasses."""

from __future__ import annotations

import inspect
import textwrap

from launch.jobs import COMMANDS, JOBS, Job

WIDTH = 110


def overview() -> str:
    """All jobs, a line each; imports nothing heavy."""
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


def of_job(job: Job) -> str:
    """Usage, examples, and every field with type, default, unit and meaning."""
    module = job.load()
    lines = [
        f"longtake {job.name}: {job.help}",
        "",
        f"usage: longtake {job.name} [FILE.yaml ...] [SOURCE] [field=value ...] [--dry-run]",
        "",
        *textwrap.wrap(
            "Fields come from the defaults below, then from the files, then from field=value; later win. "
            "SOURCE is short for source=SOURCE. Lists are written 1,2 or [1,2]; null is no value; 1e6 is an "
            "integer too. --dry-run prints the resolved config and what would be done, and stops.",
            WIDTH,
        ),
        "",
        "examples:",
        *(f"  {example}" for example in job.examples),
        "",
        *(inspect.getdoc(module) or "").splitlines(),
        "",
        "fields:",
    ]
    return "\n".join([*lines, *fields_text(module.Config)])


def fields_text(schema: type) -> list[str]:
    """Every field of a config with type, default, unit and meaning."""
    from core.config.loading import describe

    lines: list[str] = []
    for field in describe(schema):
        if field.type == "section":
            lines += ["", f"  {field.path}: {field.help}"]
            continue
        facts = [field.type, *([f"unit {field.unit}"] if field.unit else [])]
        shown = "...  (required)" if field.default == "required" else field.default
        lines.append(f"  {field.path}={shown}  <{', '.join(facts)}>")
        lines += textwrap.wrap(field.help, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines
