"""Score generated samples against real data: class agreement, Fréchet distance, variety, copies, motion.

Each score is reported beside the same measure on real data that the classifier has not seen, nor, where a
held-out dataset is given, the generator; without that reference a number says little.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core import environment, terminal
from core.config.sections import section
from core.errors import UserError
from core.files import write_json
from core.run.folder import SCORES
from tools.evaluate import scored
from tools.evaluate.config import Config
from tools.evaluate.measuring.kinds import kind_of


def plan(config: Config) -> list[str]:
    """Say what would be measured."""
    kind = kind_of(config.measure, config.imported)
    return [*kind.lines(section(kind.settings, config)), f"into {config.output}"]


def run(config: Config) -> None:
    """Measure what is asked for, write scores.json and print the table."""
    from core.progress import counted, say
    from core.queue.shared_job import begin_anew
    from core.run.claim import claim
    from models.precision import compute_in

    _require_one_task(config.measured_alone)
    compute_in("fp32")
    output, scores = Path(config.output), Path(config.output) / SCORES
    kind = kind_of(config.measure, config.imported)
    measuring = kind.open(section(kind.settings, config))  # hashed before old scores are removed
    contents = scored.contents(scores, measuring.of)

    def take() -> str:
        return claim(output, config, done=SCORES, overwrite=config.overwrite, contents=contents)

    def publish(record: dict[str, Any]) -> None:
        write_json(scores, record)
        terminal.tell(measuring.table(record), to="stdout")

    if config.overwrite:
        begin_anew(output, config.queue, take)
    elif take() == "finished":
        scored.require_of(scores, measuring.of)
        say(f"{output}: finished before")
        return
    for generated in measuring.samples:
        say(f"{generated.folder}: {counted(generated.count, 'sample')}, {generated.origin}")
    measuring.work(output, config.queue, publish)


def _require_one_task(alone: str) -> None:
    """Refuse tasks that another launcher has started where one process measures.  alone: why, or ""."""
    place = environment.place()
    if place.size > 1 and alone:
        raise UserError(f"{place.starter} tasks", place.size, f"1, {alone}")
