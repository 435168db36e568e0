"""Do a job from Python, with settings as Python values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.config import loading
from core.errors import CONTINUABLE, EndedEarly, WorkError
from core.reading import open_files
from launch import jobs, local


def do(name: str, files: Sequence[Path], fields: Mapping[str, Any]) -> Path:
    """Do the job called `name`; return its output.  Errors as `longtake.do` says."""
    job = jobs.find(name)
    open_files.require_enough()
    config = loading.load(job.load().Config, list(files), list(words_of(fields)))
    status = local.do(job, config)
    if status == CONTINUABLE:
        raise EndedEarly(f"{config.output}: ended early; the same call continues it")
    if status:
        raise WorkError(f"{config.output}: a rank of {name} failed with status {status}; it said why above")
    return Path(config.output)


def words_of(fields: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield settings as the command line takes them, `trainer.steps=10`; texts stay as they are."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from words_of(value, f"{above}{name}.")
        elif isinstance(value, (str, Path)):
            yield f"{above}{name}={value}"
        else:
            yield f"{above}{name}={json.dumps(value)}"
