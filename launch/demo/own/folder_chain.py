"""The stages of the demo on a folder of one's own: what is trained follows from folder, machine, minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data.dataset.schema import MANIFEST
from launch.demo.chain import Chain
from launch.demo.own.group_sizes import ENCODER_GROUP, TRAIN_GROUP, group_multiple
from launch.demo.own.kept import CHOICE, PROMPTS, WORDS, can_read_words
from launch.demo.stages import Command, Stage

if TYPE_CHECKING:
    from data.dataset.index import Dataset
    from data.raw.ingest import Listing
    from launch.demo.own.choice import Choice

HELD_OUT = 0.1
FEWEST_HELD_OUT = 5  # fewer say nothing of the others
MOST_PROMPTS = 8


@dataclass(frozen=True)
class OwnChain(Chain):
    """The stages of a demo on a folder. minutes: the time to spend.  text_encoder: its folder, or ""."""

    source: str = ""
    minutes: float = 30.0
    text_encoder: str = ""

    unknown: ClassVar[str] = "depends on what `shard` finds"

    def stages(self) -> list[Stage]:
        """Return the stages in order; there is no input to make."""
        return super().stages()[1:]

    def knows(self, stage: Stage) -> bool:
        """Return whether the commands are known: those after `shard` once something is chosen, and those that
        take text once that is embedded.
        """
        if stage.name == "shard":
            return True
        chosen = self.at(f"shards/{MANIFEST}").exists() and self.at(CHOICE).exists()
        needs_latents = stage.name in ("train", "sample") and chosen and self._uses_text()
        return chosen and (not needs_latents or self.at(f"latents/{MANIFEST}").exists())

    def shard(self) -> Sequence[Command]:
        if not _holds_out(self._listing()):
            return [self.command("shard", "shards", MANIFEST, {"source": self.source}), self.sheet()]
        parts = {"shards": "train", "heldout": "held_out"}
        packed = [
            self.command("shard", name, MANIFEST, {"source": self.source, "part": part, "held_out": HELD_OUT})
            for name, part in parts.items()
        ]
        return [*packed, self.sheet()]

    def _listing(self) -> Listing:
        from data.raw.ingest import list_source

        return list_source(Path(self.source))

    def foresee(self) -> list[str]:
        """Say what was chosen for the folder in this output, or what would be now."""
        from launch.demo.own.foresight import foresee
        from launch.demo.own.settling import read_settled
        from tools.shard.holding_out import part_of

        settled = read_settled(self.output)
        if settled is not None and settled["minutes"] == self.minutes:
            return [*settled["said"], *settled["limits"]]
        listing = self._listing()
        if _holds_out(listing):
            listing = part_of(listing, "train", HELD_OUT)
        ranks = 1 if self.tiny else self.processes
        return foresee(listing, self.minutes, ranks, tiny=self.tiny, text_encoder=self.text_encoder)

    def train_autoencoder(self) -> Sequence[Command]:
        choice, steps = self._choice(), self._choice()["encoder_steps"]
        fields = {
            "data.buckets.shapes": _words(choice["shapes"]),
            "data.buckets.fps": choice["fps"],
            **self._groups(choice, ENCODER_GROUP),
            "engine.precision": choice["precision"],
            "trainer.steps": steps,
            "trainer.save_every": max(1, steps // 4),
        }
        return [self.autoencoder_command(fields)]

    def encode(self) -> Sequence[Command]:
        choice = self._choice()
        fields = {
            "buckets.shapes": _words(choice["shapes"]),
            "buckets.fps": choice["fps"],
            **({"text_encoder": self._encoder_of_texts()} if self._uses_text() else {}),
        }
        return [self.encode_command(fields)]

    def train(self) -> Sequence[Command]:
        choice, steps = self._choice(), self._choice()["train_steps"]
        network = {
            "model.width": choice["width"],
            "model.depth": choice["depth"],
            "model.heads": choice["heads"],
            "model.num_classes": len(self._packed().manifest.classes),
            **({"model.text_width": self._text_width()} if self._uses_text() else {}),
        }
        lengths = {
            "engine.precision": choice["precision"],
            "trainer.steps": steps,
            "trainer.save_every": max(1, steps // 4),
        }
        return [self.train_command({**network, **self._groups(choice, TRAIN_GROUP), **lengths})]

    def sample(self) -> Sequence[Command]:
        choice = self._choice()
        more: dict[str, object] = {}
        if self._uses_text():
            more["prompt_file"] = self._prompts()
        elif len(self._packed().manifest.classes) <= 1:
            more = {"sampler.guidance": 1.0, "sampler.guidance_end": 0.0}
        commands = []
        for kind, count in (("images", choice["images"]), ("clips", choice["clips"])):
            if not count:
                continue
            frames, height, width = self._most_common(clip=kind == "clips")
            size = {"count": count, "frames": frames, "height": height, "width": width}
            rate = {"fps": self._frame_rate(choice)} if kind == "clips" else {}
            batch = {"batch": min(count, 20 if kind == "images" else 4)}
            commands.append(self.sample_command(kind, {**size, **rate, **batch, **more}))
        return commands

    def evaluate(self) -> Sequence[Command]:
        held_out = {"heldout": self.at("heldout")} if self.at(f"heldout/{MANIFEST}").exists() else {}
        return [self.evaluate_command({**held_out, "fps": self._choice()["fps"]})]

    def _choice(self) -> Choice:
        """Return what is trained: what was chosen, or is now, since the stages before have run."""
        from launch.demo.own.settling import settle

        ranks = 1 if self.tiny else self.processes
        return settle(self.output, self.minutes, ranks, tiny=self.tiny, text_encoder=self.text_encoder)

    def _uses_text(self) -> bool:
        readable = bool(self.text_encoder) or can_read_words()
        return readable and bool(self._packed().manifest.extra.get("texts"))

    def _encoder_of_texts(self) -> Path | str:
        """Return the folder of the text encoder: the one given, or one made of the captions' words."""
        if self.text_encoder:
            return self.text_encoder
        folder = self.at(WORDS)
        if not (folder / "config.json").is_file():
            from launch.demo.own.prompts import all_captions
            from launch.demo.own.words import write_word_encoder

            write_word_encoder(folder, all_captions(self._packed()))
        return folder

    def _groups(self, choice: Choice, size: int) -> dict[str, object]:
        """Return the groups of a step; for data of one kind, without the recipes' share of clips."""
        multiple = group_multiple(self.processes)
        sizes: dict[str, object] = {"data.group_size": size, "data.rank_multiple": multiple}
        both = bool(choice["images"] and choice["clips"])
        return sizes if both else {**sizes, "data.video_share": "null", "data.groups_per_step": 1}

    def _text_width(self) -> int:
        from data.dataset.manifest import DatasetManifest

        return int(DatasetManifest.read(self.at("latents")).extra["made_from"]["text"]["width"])

    def _prompts(self) -> Path:
        from launch.demo.own.prompts import write_prompts

        return write_prompts(self._packed(), self.at(PROMPTS), MOST_PROMPTS)

    def _most_common(self, *, clip: bool) -> tuple[int, int, int]:
        """Return the shape of images, or of clips, that most samples are brought to."""
        from launch.demo.own.settling import most_common

        return most_common(self._packed(), self._choice(), clip=clip)

    def _frame_rate(self, choice: Choice) -> float:
        from launch.demo.own.settling import frame_rate

        return choice["fps"] or frame_rate(self._packed())

    def _packed(self) -> Dataset:
        """Open what `shard` made of the folder."""
        from data.dataset.index import Dataset

        return Dataset(self.at("shards"))


def _holds_out(listing: Listing) -> bool:
    """Return whether a folder has enough samples to keep some from training."""
    from tools.shard.holding_out import count_held_out

    return count_held_out(listing, HELD_OUT) >= FEWEST_HELD_OUT


def _words(shapes: list[list[int]]) -> str:
    """Return a list of shapes as one types it, without spaces."""
    return str(shapes).replace(" ", "")
