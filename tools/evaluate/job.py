"""Score generated samples against real data: class agreement, Fréchet distance, variety, copies, motion.

A score stands beside the same measure on real data that the classifier has not seen, nor, where a held-out
dataset is given, the generator; without that neighbour a number says little.
"""

from __future__ import annotations

from pathlib import Path

from core import terminal
from core.config.sections import section
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
    from core.run.claim import claim
    from models.precision import compute_in

    compute_in("fp32")
    output, scores = Path(config.output), Path(config.output) / SCORES
    kind = kind_of(config.measure, config.imported)
    measuring = kind.open(section(kind.settings, config))  # hashed before old scores are removed
    contents = scored.contents(scores, measuring.of)
    if claim(output, config, done=SCORES, overwrite=config.overwrite, contents=contents) == "finished":
        scored.require_of(scores, measuring.of)
        say(f"{output}: finished before")
        return
    for generated in measuring.samples:
        say(f"{generated.folder}: {counted(generated.count, 'sample')}, {generated.origin}")
    record = measuring.measure(output)
    write_json(scores, record)
    terminal.tell(measuring.table(record), to="stdout")
