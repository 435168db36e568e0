"""The stages of the demo on the built-in digits, and the commands of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from core.files import published_names
from core.root import ROOT
from core.run.folder import FINISHED, SAMPLES, SCORES
from data.dataset.schema import MANIFEST
from launch.demo.report import SHEET
from launch.demo.stages import Command, Stage

RECIPES = ROOT / "configs" / "demo"
WEAK = 1.4  # autoguidance of images (2406.02507) away from the network of half the training


@dataclass(frozen=True)
class Chain:
    """The stages of a demo, and the commands of each.

    output: the folder that receives everything.  processes: ranks of the stages that use several.
    """

    output: Path
    seed: int
    processes: int
    tiny: bool

    unknown: ClassVar[str] = "depends on the checkpoints that `train` leaves"

    def stages(self) -> list[Stage]:
        """Return the stages in order."""
        return [
            Stage("digits", self.digits),
            Stage("shard", self.shard),
            Stage("train-autoencoder", self.train_autoencoder),
            Stage("encode", self.encode),
            Stage("train", self.train),
            Stage("sample", self.sample),
            Stage("evaluate", self.evaluate),
        ]

    def knows(self, stage: Stage) -> bool:
        """Return whether the commands of a stage can be told before the stages before it have run."""
        return stage.name != "sample" or self._earliest() != ""

    def foresee(self) -> list[str]:
        """Say what would be trained, as far as it does not stand in the commands."""
        return []

    def at(self, name: str) -> Path:
        """Return a path inside the output."""
        return self.output / name

    def command(
        self, job: str, output: str, done: str, fields: Mapping[str, object], recipe: str = ""
    ) -> Command:
        """Build a job's command: its recipe (`configs/demo/RECIPE.yaml`, then `configs/demo/tiny/…`) and
        fields.
        """
        name = f"{recipe or job}.yaml"
        folders = (RECIPES, RECIPES / "tiny") if self.tiny else (RECIPES,)
        files = [folder / name for folder in folders if (folder / name).is_file()]
        common = {"output": self.at(output), "seed": self.seed}
        return Command(job, {**fields, **common}, self.at(output) / done, files)

    def digits(self) -> Sequence[Command]:
        return [self.command("digits", "input", "digits.json", {})]

    def shard(self) -> Sequence[Command]:
        parts = {"shards": "train", "heldout": "heldout"}
        packed = [
            self.command("shard", name, MANIFEST, {"source": self.at(f"input/{part}")})
            for name, part in parts.items()
        ]
        return [*packed, self.sheet()]

    def sheet(self) -> Command:
        """Draw the packed pictures, the first to be looked at."""
        fields = {"source": self.at("shards"), "sheet": self.at(SHEET)}
        return Command("inspect", fields, self.at(SHEET))

    def train_autoencoder(self) -> Sequence[Command]:
        return [self.autoencoder_command({})]

    def autoencoder_command(self, fields: Mapping[str, object]) -> Command:
        done = "autoencoder/config.json"
        return self.command("train-autoencoder", "autoencoder", done, {**self.source_of("shards"), **fields})

    def encode(self) -> Sequence[Command]:
        return [self.encode_command({})]

    def encode_command(self, fields: Mapping[str, object]) -> Command:
        known = {**self.source_of("shards"), "autoencoder": self.at("autoencoder")}
        return self.command("encode", "latents", MANIFEST, {**known, **fields})

    def train(self) -> Sequence[Command]:
        return [self.train_command({})]

    def train_command(self, fields: Mapping[str, object]) -> Command:
        known = {**self.source_of("latents"), "processes": self.processes}
        return self.command("train", "run", FINISHED, {**known, **fields})

    def sample(self) -> Sequence[Command]:
        weaker = {
            "sampler.guide.weak": WEAK,
            "weak.source": self.at("run"),
            "weak.checkpoint": self._earliest(),
        }
        return [self.sample_command("images", weaker), self.sample_command("clips", {})]

    def _earliest(self) -> str:
        """Return the name of the run's earliest checkpoint, "" before there is one."""
        folder = self.at("run/checkpoints")
        return min(published_names(folder, "step-*"), default="") if folder.is_dir() else ""

    def sample_command(self, kind: str, fields: Mapping[str, object]) -> Command:
        known = self.source_of("run")
        return self.command("sample", f"samples/{kind}", SAMPLES, {**known, **fields}, f"sample-{kind}")

    def evaluate(self) -> Sequence[Command]:
        return [self.evaluate_command({"heldout": self.at("heldout")})]

    def evaluate_command(self, fields: Mapping[str, object]) -> Command:
        known = {
            "source": self.at("samples"),
            "real": self.at("shards"),
            "autoencoder": self.at("autoencoder"),
        }
        return self.command("evaluate", "scores", SCORES, {**known, **fields})

    def source_of(self, name: str) -> dict[str, object]:
        """Return a job's source and number of ranks.

        One rank if several would take longer than the job itself.
        """
        return {"source": self.at(name), "processes": 1 if self.tiny else self.processes}
