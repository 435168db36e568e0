"""Run the whole pipeline in one command: shards, autoencoder, latents, training, samples, scores, report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from core.config.settings import setting
from core.errors import UserError
from core.progress import duration, say
from core.run.claim import claim
from core.run.folder import SCORES
from launch.demo.chain import Chain
from launch.demo.own.folder_chain import OwnChain
from launch.demo.report import REPORT, keep_current
from launch.demo.score_table import REPORTED, read_scores
from launch.demo.stage_records import Record, read_record, stages_made
from launch.demo.stages import run_stages

RESULT = "demo.json"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Input and size of the demo."""

    job: ClassVar[str] = "demo"

    source: str = setting(
        "",
        "folder of your own images and videos; '' takes handwritten digits, which are included",
        shown="path",
        role="place",
    )
    output: str = setting("runs/demo", "folder that receives everything", shown="path", role="place")
    seed: int = setting(0, "seed of every stage", low=0)
    overwrite: bool = setting(False, "start anew, removing the earlier demo in the output", role="work")
    processes: int = setting(2, "local ranks of the stages that use several", low=1, role="work")
    scale: Literal["full", "tiny"] = setting(
        "full", "tiny runs every stage with as little work as possible; its samples are noise"
    )
    minutes: float = setting(
        30.0,
        "time to spend on your own folder; resolution, length of clips, sizes of the networks and numbers"
        " of steps follow from it, from the folder and from the speed of this machine",
        unit="min",
        low=1,
    )
    text_encoder: str = setting(
        "",
        "folder of a public text encoder (CLIP, T5, UMT5) for the captions of your folder; '' assigns a "
        "fixed vector to each word",
        shown="path",
        role="place",
    )

    def __post_init__(self) -> None:
        if self.source and not Path(self.source).exists():
            raise UserError("source", self.source, "an existing folder, or '' for the built-in digits")
        for name, usual in (("minutes", 30.0), ("text_encoder", "")):
            if not self.source and getattr(self, name) != usual:
                expected = f"{usual!r}, or source=your folder: the built-in digits have a recipe of their own"
                raise UserError(name, getattr(self, name), expected)
        self._require_sound_folders()

    def _require_sound_folders(self) -> None:
        """Refuse at once what a stage would refuse after minutes of work."""
        if self.source:
            from data.raw.ingest import require_readable
            from tools.shard.config import require_outside

            require_readable(Path(self.source))
            require_outside(self.output, self.source)
        if self.text_encoder:
            from models.text.encoders import folder_of

            folder_of(Path(self.text_encoder))

    def chain(self) -> Chain:
        """Return the stages that this demo is made of."""
        common = Path(self.output), self.seed, self.processes, self.scale == "tiny"
        if not self.source:
            return Chain(*common)
        return OwnChain(*common, source=self.source, minutes=self.minutes, text_encoder=self.text_encoder)


def plan(config: Config) -> list[str]:
    """Say what would be chosen for the user's own folder, and name the stages; what some are told depends on
    what others leave.
    """
    chain = config.chain()
    lines = chain.foresee()
    for stage in chain.stages():
        known = chain.knows(stage)
        commands = [c.text() for c in stage.commands()] if known else [chain.unknown]
        lines += [f"{stage.name}: {command}" for command in commands]
    return lines


def run(config: Config) -> None:
    """Run the stages of the chain that are missing, then write demo.json and say where everything is.

    The report is written from the first stage on, and after each.
    """
    output = Path(config.output)
    claim(output, config, done=RESULT, overwrite=config.overwrite, made=partial(stages_made, output))
    record = read_record(output, digits=not config.source)
    chain = config.chain()
    say(f"{output / REPORT} grows with every stage: open it at any time")
    run_stages(chain.stages(), record, output / "logs", partial(keep_current, output))
    keep_current(output)
    result = write_result(output, record)
    for line in summary(output, result).split("\n"):
        say(line)


def write_result(output: Path, record: Record) -> dict[str, Any]:
    """Publish demo.json: seconds of each stage and the scores; null where this data has no answer."""
    from core.files import write_json

    scores = read_scores(output)
    stages = [{"name": stage["name"], "seconds": stage["seconds"]} for stage in record.stages.values()]
    result = {"stages": stages, **{key: scores.get(key) for key in REPORTED}}
    write_json(output / RESULT, result)
    return result


def summary(output: Path, result: dict[str, Any]) -> str:
    """Return the closing lines for a person."""
    seconds = sum(stage["seconds"] for stage in result["stages"])
    scores = [f"  {key:20} {result[key]:.3f}" for key in REPORTED if result[key] is not None]
    places = [
        ("report", output / REPORT),
        ("images", output / "samples/images/images.png"),
        ("clips", output / "samples/clips/clips.mp4"),
        ("trained run", output / "run"),
        ("scores", output / "scores" / SCORES),
    ]
    shown = [f"  {name:12} {path}" for name, path in places if path.exists()]
    return "\n".join([f"done, {duration(seconds)} of work in all", *scores, *shown])
