"""Run the whole chain in one command: shards, autoencoder, latents, training, samples, scores, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from core.config.settings import setting
from core.errors import UserError
from core.progress import duration, say
from core.root import ROOT
from core.run.claim import claim
from core.run.folder import FINISHED, SAMPLES, SCORES
from data.dataset.schema import MANIFEST
from launch.demo.report import REPORT, SHEET, keep_current
from launch.demo.score_table import BARS, read_scores
from launch.demo.stage_records import Record, read_record, stages_made
from launch.demo.stages import Command, Stage, run_stages

if TYPE_CHECKING:
    from data.dataset.index import Dataset

RECIPES = ROOT / "configs" / "demo"
RESULT = "demo.json"
REPORTED = tuple(dict.fromkeys(name for bar in BARS for name in (bar.key, bar.beside) if name))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Input and size of the demo."""

    job: ClassVar[str] = "demo"

    source: str = setting(
        "",
        "your folder of images and videos; '' is handwritten digits that come with it",
        shown="path",
        role="place",
    )
    output: str = setting("runs/demo", "folder that receives everything", shown="path", role="place")
    seed: int = setting(0, "seed of every stage", low=0)
    overwrite: bool = setting(
        False, "begin anew, removing what an earlier demo left in the output", role="work"
    )
    processes: int = setting(2, "local ranks of the stages that use several", low=1, role="work")
    scale: Literal["full", "tiny"] = setting(
        "full", "tiny goes through every stage in about a minute; no good pictures"
    )

    def __post_init__(self) -> None:
        if self.source and not Path(self.source).exists():
            raise UserError("source", self.source, "an existing folder, or '' for the built-in digits")


def plan(config: Config) -> list[str]:
    """Name the stages; on the user's own folder, those after `shard` depend on what it finds."""
    chain = Chain(config)
    lines = []
    for stage in chain.stages():
        known = not config.source or stage.name == "shard" or chain.at(f"shards/{MANIFEST}").exists()
        commands = [c.text() for c in stage.commands()] if known else ["depends on what `shard` finds"]
        lines += [f"{stage.name}: {command}" for command in commands]
    return lines


def run(config: Config) -> None:
    """Run the stages of the chain that are missing, then write demo.json and say where everything is.

    The report is written from the first stage on, and after each.
    """
    output = Path(config.output)
    claim(output, config, done=RESULT, overwrite=config.overwrite, made=partial(stages_made, output))
    record = read_record(output, digits=not config.source)
    chain = Chain(config)
    say(f"{output / REPORT} grows with every stage: open it at any time")
    run_stages(chain.stages(), record, output / "logs", partial(keep_current, output))
    keep_current(output)
    result = write_result(output, record)
    for line in summary(output, result).split("\n"):
        say(line)


@dataclass(frozen=True)
class Chain:
    """The stages of a demo, and the commands of each."""

    config: Config

    def stages(self) -> list[Stage]:
        """Return the stages in order; the built-in digits are written first if no source is given."""
        digits = [] if self.config.source else [Stage("digits", self._digits)]
        return [
            *digits,
            Stage("shard", self._shard),
            Stage("train-autoencoder", self._train_autoencoder),
            Stage("encode", self._encode),
            Stage("train", self._train),
            Stage("sample", self._sample),
            Stage("evaluate", self._evaluate),
        ]

    def at(self, name: str) -> Path:
        """Return a path inside the output."""
        return Path(self.config.output) / name

    def command(
        self, job: str, output: str, done: str, fields: Mapping[str, object], recipe: str = ""
    ) -> Command:
        """Build a job's command: its recipe (`configs/demo/RECIPE.yaml`, then `configs/demo/tiny/…`) and
        fields.
        """
        name = f"{recipe or job}.yaml"
        folders = (RECIPES, RECIPES / "tiny") if self.config.scale == "tiny" else (RECIPES,)
        files = [folder / name for folder in folders if (folder / name).is_file()]
        common = {"output": self.at(output), "seed": self.config.seed}
        return Command(job, {**fields, **common}, self.at(output) / done, files)

    def _digits(self) -> list[Command]:
        return [self.command("digits", "input", "digits.json", {})]

    def _shard(self) -> list[Command]:
        parts: dict[str, object] = {"shards": self.config.source}
        if not self.config.source:
            parts = {"shards": self.at("input/train"), "heldout": self.at("input/heldout")}
        packed = [self.command("shard", name, MANIFEST, {"source": part}) for name, part in parts.items()]
        sheet = {"source": self.at("shards"), "sheet": self.at(SHEET)}
        return [*packed, Command("inspect", sheet, self.at(SHEET))]

    def _train_autoencoder(self) -> list[Command]:
        fields = {**self._source("shards"), **self._shares()}
        return [self.command("train-autoencoder", "autoencoder", "autoencoder/config.json", fields)]

    def _encode(self) -> list[Command]:
        fields = {**self._source("shards"), "autoencoder": self.at("autoencoder")}
        return [self.command("encode", "latents", MANIFEST, fields)]

    def _train(self) -> list[Command]:
        fields = {**self._source("latents"), **self._shares(), "processes": self.config.processes}
        if self.config.source:
            fields["model.num_classes"] = len(self._found().manifest.classes)
        return [self.command("train", "run", FINISHED, fields)]

    def _sample(self) -> list[Command]:
        fields = self._source("run")
        if self.config.source and not self._found().manifest.classes:
            fields["sampler.guidance"] = 1.0  # there is no class to be guided by
        return [
            self.command("sample", f"samples/{kind}", SAMPLES, fields, f"sample-{kind}")
            for kind in self._kinds()
        ]

    def _evaluate(self) -> list[Command]:
        heldout = {} if self.config.source else {"heldout": self.at("heldout")}
        fields = {
            "source": self.at("samples"),
            "real": self.at("shards"),
            "autoencoder": self.at("autoencoder"),
            **heldout,
        }
        return [self.command("evaluate", "scores", SCORES, fields)]

    def _source(self, name: str) -> dict[str, object]:
        """Return a job's source and number of ranks.

        One rank if several would take longer than the job itself.
        """
        return {
            "source": self.at(name),
            "processes": 1 if self.config.scale == "tiny" else self.config.processes,
        }

    def _shares(self) -> dict[str, object]:
        """Return fields that drop the recipes' share of clips, which means nothing for data of one kind."""
        return {"data.video_share": "null"} if len(self._kinds()) == 1 else {}

    def _kinds(self) -> Sequence[str]:
        """Return the kinds that can be generated, which are those of the data.

        The built-in digits have both.
        """
        if not self.config.source:
            return ("images", "clips")
        import numpy as np

        from data.order.buckets import is_image

        images = is_image(np.asarray(self._found().media))
        return [kind for kind, found in (("images", images.any()), ("clips", not images.all())) if found]

    def _found(self) -> Dataset:
        """Open what `shard` made of the user's folder."""
        from data.dataset.index import Dataset

        return Dataset(self.at("shards"))


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
