"""The table of jobs; nothing heavy is imported to list them."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any, NamedTuple

from core import garbage
from core.errors import UserError
from core.run.folder import AUTOENCODER, FINISHED, SAMPLES, SCORES


class Job(NamedTuple):
    """A job a person can run.

    module: has `Config`, `plan(config) -> list[str]` and `run(config) -> None`, and where larger numbers
    continue a finished output `may_grow(config)`, which names them; imported when needed.
    on_ranks: `processes=N` starts N ranks that run the job together; otherwise the job starts them itself.
    prints: whether its result is what it prints; other jobs outlive a standard output that fails.
    shares: several processes share the work through its output, and one that dies ends no other.
    several: whether it takes any number of bare paths, as a list.
    done: of a job on ranks, the file in its output that is written last; how a run went is told by that.
    """

    name: str
    module: str
    help: str
    examples: tuple[str, ...]
    on_ranks: bool = True
    shares: bool = False
    done: str = ""
    prints: bool = False
    several: bool = False

    def may_grow(self, config: Any) -> tuple[str, ...]:
        """Return the fields that may be larger where an output of this job is continued."""
        found: tuple[str, ...] = getattr(self.load(), "may_grow", lambda _: ())(config)
        return found

    def load(self) -> Any:
        """Import the module."""
        if self.module in sys.modules:
            return sys.modules[self.module]
        with garbage.none_expected():
            return importlib.import_module(self.module)


JOBS = (
    Job(
        "shard",
        "tools.shard.job",
        "pack image and video files into WebDataset shards with manifest and index",
        (
            "longtake shard photos output=runs/raw",
            "longtake shard captions.csv output=runs/raw overwrite=true",
        ),
        on_ranks=False,
    ),
    Job(
        "train-autoencoder",
        "tools.train_autoencoder.job",
        "train the autoencoder that turns images and clips into latents",
        (
            "longtake train-autoencoder runs/raw output=runs/autoencoder",
            "longtake train-autoencoder my.yaml trainer.steps=1e5",
        ),
        done=f"{AUTOENCODER}/config.json",
    ),
    Job(
        "encode",
        "tools.encode.job",
        "encode shards into a cache of latents, shared by any number of workers",
        (
            "longtake encode runs/raw autoencoder=runs/autoencoder output=runs/latents",
            "longtake encode my.yaml processes=2",
            "longtake encode runs/raw autoencoder=models/wan text_encoder=models/umt5 output=runs/latents",
            "longtake encode my.yaml action=status",
        ),
        on_ranks=False,
        shares=True,
    ),
    Job(
        "plan",
        "tools.plan.job",
        "predict whether a training run fits, how long it takes and what it costs, without a GPU",
        (
            "longtake plan my.yaml plan.device=H100 plan.ranks=64",
            "longtake plan my.yaml plan.device=H100 action=write file=engine.yaml",
            "longtake plan my.yaml action=measure file=groups.yaml",
            "longtake plan model.preset=DiT-XL/2 plan.device=H200 plan.samples=1e6 plan.shapes=[[4,1,32,32]]",
        ),
        on_ranks=False,
        prints=True,
    ),
    Job(
        "train",
        "tools.train.job",
        "train a diffusion transformer on latents; the same command continues an unfinished run",
        (
            "longtake train runs/latents output=runs/train model.preset=DiT-S/2",
            "longtake train my.yaml --dry-run",
        ),
        done=FINISHED,
    ),
    Job(
        "sample",
        "tools.sample.job",
        "generate images or clips from a checkpoint, shared by any number of workers",
        ("longtake sample runs/train output=runs/samples", "longtake sample my.yaml sampler.guidance=3"),
        shares=True,
        done=SAMPLES,
    ),
    Job(
        "evaluate",
        "tools.evaluate.job",
        "score samples against real data",
        ("longtake evaluate runs/samples output=runs/scores", "longtake evaluate my.yaml seed=1"),
        shares=True,
        done=SCORES,
    ),
    Job(
        "export",
        "tools.export.job",
        "write weights of a training run, or averages of any length, as plain safetensors",
        (
            "longtake export runs/train output=runs/exported",
            "longtake export runs/train output=runs/exported ema_sigma=0.08",
        ),
        on_ranks=False,
    ),
    Job(
        "convert",
        "tools.convert.job",
        "convert published DiT weights into an export, which sample and train take, and back",
        (
            "longtake convert DiT-XL-2-256x256.pt autoencoder=sd-vae-ft-ema output=runs/dit-xl2",
            "longtake convert runs/dit-xl2 output=dit.pt",
        ),
        on_ranks=False,
    ),
    Job(
        "inspect",
        "tools.inspect.job",
        "show a dataset, run, checkpoint or export; verify hashes; rebuild a dataset's index",
        (
            "longtake inspect runs/raw sheet=sheet.png",
            "longtake inspect runs/train",
            "longtake inspect runs/exported",
            "longtake inspect runs/latents action=verify",
            "longtake inspect my-tars action=reindex",
        ),
        on_ranks=False,
        prints=True,
    ),
    Job(
        "sweep",
        "launch.sweep.job",
        "train many runs of different sizes and budgets, and fit a scaling law to them",
        (
            "longtake sweep configs/sweep/isoflop.yaml runs/latents output=runs/sweep --dry-run",
            "longtake sweep configs/sweep/isoflop.yaml runs/latents output=runs/sweep",
            "longtake sweep configs/sweep/isoflop.yaml runs/latents output=runs/sweep action=fit",
        ),
        on_ranks=False,
        shares=True,
    ),
    Job(
        "demo",
        "launch.demo.job",
        "run the whole pipeline, from files to samples, on handwritten digits or your own folder",
        ("longtake demo", "longtake demo photos output=runs/photos"),
        on_ranks=False,
    ),
    Job(
        "digits",
        "tools.digits",
        "write the input of the demo: handwritten digits, as images and as moving clips",
        ("longtake digits output=runs/digits",),
        on_ranks=False,
    ),
    Job(
        "bench",
        "tools.bench.job",
        "benchmark data, training, checkpoints or start-up against machine limits and libraries",
        ("longtake bench reader output=runs/bench", "longtake bench writer samples=100000 floors=false"),
        on_ranks=False,
    ),
    Job(
        "compare",
        "tools.compare",
        "compare scores side by side, refusing to rank those that were measured differently",
        ("longtake compare runs/a/scores runs/b/scores",),
        on_ranks=False,
        prints=True,
        several=True,
    ),
    Job(
        "report",
        "launch.report.job",
        "write one HTML page about runs, datasets, samples or scores, side by side",
        (
            "longtake report runs/train",
            "longtake report runs/train runs/wider output=compared.html",
            "longtake report runs/train follow=true",
        ),
        on_ranks=False,
        several=True,
    ),
)
SEVERAL = frozenset(job.name for job in JOBS if job.several)


class Command(NamedTuple):
    """A command that is not a job. module: has `main(words) -> int`."""

    name: str
    module: str
    help: str

    def load(self) -> Any:
        """Import the module."""
        return importlib.import_module(self.module)


COMMANDS = (
    Command("submit", "launch.cluster.submit", "queue any of these on a cluster, or in the background"),
    Command("jobs", "launch.cluster.listing", "list submitted jobs, their progress, and what went wrong"),
    Command("cancel", "launch.cluster.cancel", "end a submitted job; training saves first"),
    Command("doctor", "launch.doctor.command", "report what this machine lacks, or what went wrong in a run"),
    Command("logs", "launch.cluster.logs", "show what a submitted job has written"),
)


def find(name: str) -> Job:
    """Return the job called `name`; UserError with the nearest name if there is none."""
    for job in JOBS:
        if job.name == name:
            return job
    nearest = max(JOBS, key=lambda job: difflib.SequenceMatcher(None, name, job.name).ratio())
    raise UserError(f"{name}: no such job; the nearest is {nearest.name} (longtake --help lists all)")
