"""Train configs/train/digits_*.yaml on the digits of the demo, sample and score: a table of docs/method.md.

    longtake demo output=runs/demo
    python -m tools.bench.digits_recipes runs/demo runs/digits

trains all, writes the tables and their numbers there (`table.md`, `table.json`), and puts them into the docs
of this checkout: docs/benchmarks/digits_recipes.json, and the tables of docs/method.md. Names after the
folders are the only recipes done, and then the docs stay. Every step is a command of longtake that continues
its own output, so that the same call goes on after a kill.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from core.config.loading import load
from core.config.values import any_of
from core.diffusion.grids import Grid
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.errors import UserError, WorkError
from core.files import read_text, write_json, write_text
from core.progress import say
from core.reading import json_files
from core.root import ROOT
from core.run.folder import FINISHED, SCORES
from tools.bench import class_use
from tools.bench.page_tables import with_table
from tools.train.config import Config

RECIPES = ROOT / "configs" / "train"
TABLE = "table"
PAGE, NUMBERS = ROOT / "docs" / "method.md", ROOT / "docs" / "benchmarks" / "digits_recipes.json"
IMAGE, CLIP = (1, 8, 8), (5, 8, 8)  # latents


@dataclass(frozen=True)
class Sampled:
    """Samples of a recipe, without guidance.  clips: whether clips too.

    grid: of times; even ones, which were the default on rectified flow when the table was made.
    """

    recipe: str
    solver: SolverName
    steps: int
    clips: bool = False
    grid: Literal["auto", Grid] = "auto"

    @property
    def evaluations(self) -> int:
        return self.steps * KINDS[self.solver].evaluations


TABLED = (
    Sampled("ddpm", "unipc_2", 24),
    Sampled("ddpm", "ddim", 4),
    Sampled("edm", "heun", 12, grid="even"),  # the published steps
    Sampled("edm", "euler", 4, grid="even"),
    Sampled("flow", "heun", 12, grid="even"),
    Sampled("flow", "euler", 4),
    Sampled("jit", "heun", 12, grid="even"),
    Sampled("jit", "euler", 4),
    Sampled("mean_flow", "mean_flow", 4),
    Sampled("mean_flow", "mean_flow", 2),
    Sampled("mean_flow", "mean_flow", 1),
    Sampled("frames", "heun", 12, clips=True, grid="even"),
    Sampled("frames", "euler", 4, clips=True),
)
NAMES = tuple(dict.fromkeys(each.recipe for each in TABLED))


class _Scores(TypedDict):
    class_agreement: float
    reference_accuracy: float
    frechet: float
    frechet_real: float
    clip_agreement: NotRequired[float]


@dataclass(frozen=True)
class Row:
    """A line of the table.  macs: multiply-accumulates of the training.

    real_agreement, real_frechet: the same scores of real digits that the classifier has not seen.
    """

    recipe: str
    solver: str
    evaluations: int
    agreement: float
    frechet: float
    clip_agreement: float | None
    macs: float
    real_agreement: float
    real_frechet: float


@dataclass(frozen=True)
class Found:
    """The results.  uses: of each recipe, its errors with the class and with another (`class_use`)."""

    rows: Sequence[Row]
    uses: Sequence[class_use.Errors]

    @property
    def recipes(self) -> list[str]:
        return list(dict.fromkeys(row.recipe for row in self.rows))

    @property
    def tables(self) -> tuple[str, str]:
        """The scores and the errors as tables of Markdown."""
        names = [f"`digits_{name}`" for name in self.recipes]
        return as_table(self.rows), class_use.as_table(names, self.uses)

    @property
    def numbers(self) -> dict[str, Any]:
        """The scores and the errors as plain values for JSON."""
        errors = dict(zip(self.recipes, self.uses, strict=True))
        rows = [asdict(row) for row in self.rows]
        return {"rows": rows, "class_use": {"levels": class_use.LEVELS, "errors": errors}}


def measure(
    demo: Path,
    output: Path,
    chosen: Sequence[str] = NAMES,
    fields: Sequence[str] = (),
    counts: tuple[int, int] = (1000, 20),
) -> Found:
    """Train, sample and score what is not done yet, and write the tables of what was chosen.

    demo: output of `longtake demo`, whose digits, autoencoder and latents are taken.  chosen: recipes.
    fields: further ones of training.  counts: images and clips of a row.
    """
    demo, output = demo.resolve(), output.resolve()  # commands run where this code lies
    for name in chosen:
        if name not in NAMES:
            raise UserError(f"{name}: expected {any_of(list(NAMES))}")
    rows = [_row(demo, output, each, fields, counts) for each in TABLED if each.recipe in chosen]
    runs = [output / name / "run" for name in dict.fromkeys(row.recipe for row in rows)]
    found = Found(rows, class_use.errors_of(demo / "latents", runs))
    write_json(output / f"{TABLE}.json", found.numbers)
    write_text(output / f"{TABLE}.md", "\n".join(found.tables))
    return found


def publish(found: Found, page: Path, numbers: Path) -> None:
    """Put the tables in the place of those of a page, and write the numbers beside it."""
    text = read_text(page)
    for table in found.tables:
        text = with_table(text, table)
    write_text(page, text)
    write_json(numbers, found.numbers)
    say(f"the tables are in {page}, the numbers in {numbers}")


def main(demo: Path, output: Path, chosen: Sequence[str]) -> None:
    """Measure what is chosen, or all and put that into the docs."""
    found = measure(demo, output, chosen or NAMES)
    if not chosen:
        publish(found, PAGE, NUMBERS)


def _row(demo: Path, output: Path, each: Sampled, fields: Sequence[str], counts: tuple[int, int]) -> Row:
    folder = output / each.recipe
    run, samples, scores = (
        folder / name for name in ("run", f"samples-{each.steps}", f"scores-{each.steps}")
    )
    _train(demo, run, each.recipe, fields)
    sampler = [
        "seed=0",
        f"sampler.solver={each.solver}",
        f"sampler.steps={each.steps}",
        f"sampler.grid={each.grid}",
    ]
    _do("sample", f"source={run}", f"output={samples / 'images'}", *sampler, f"count={counts[0]}")
    if each.clips:
        clips = [f"count={counts[1]}", "frames=17", "batch=10"]
        _do("sample", f"source={run}", f"output={samples / 'clips'}", *sampler, *clips)
    against = [f"real={demo / 'shards'}", f"heldout={demo / 'heldout'}"]
    _do("evaluate", f"source={samples}", f"output={scores}", *against, "seed=0")
    found = json_files.read(scores / SCORES, _Scores)
    return Row(
        each.recipe,
        each.solver,
        each.evaluations,
        found["class_agreement"],
        found["frechet"],
        found.get("clip_agreement"),
        cost(each.recipe, fields),
        found["reference_accuracy"],
        found["frechet_real"],
    )


def _train(demo: Path, run: Path, recipe: str, fields: Sequence[str]) -> None:
    """Train a recipe, or go on, unless it is finished."""
    if not (run / FINISHED).exists():
        made_from = f"source={demo / 'latents'}", f"autoencoder={demo / 'autoencoder'}"
        _do("train", str(recipe_file(recipe)), *made_from, f"output={run}", *fields)


def recipe_file(recipe: str) -> Path:
    return RECIPES / f"digits_{recipe}.yaml"


def cost(recipe: str, fields: Sequence[str] = ()) -> float:
    """Count the multiply-accumulates of a training: matrix products, forward and backward."""
    config = load(Config, [recipe_file(recipe)], ["source=x", "output=y", *fields])
    data, tokens = config.data, config.model.tokens
    counts = {IMAGE: data.group_size}
    if data.groups_per_step > 1:  # beside it a group of clips of about as many tokens
        share = data.group_size * tokens(IMAGE) / tokens(CLIP) / data.rank_multiple
        counts[CLIP] = max(1, round(share + 0.3)) * data.rank_multiple
    of_step = sum(count * sum(config.model.macs_by_part(shape).values()) for shape, count in counts.items())
    return float(of_step * config.trainer.steps * config.objective.passes)


def _do(*words: str) -> None:
    """Do a job as a command of its own; WorkError where it fails, which then said why."""
    status = subprocess.run([sys.executable, "-P", "-m", "launch", *words], cwd=ROOT).returncode
    if status:
        raise WorkError(f"longtake {' '.join(words)}: status {status}")


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows as a table of Markdown, the lines of a recipe together."""
    lines = [
        "| recipe | solver | evaluations | agreement | Fréchet | agreement of clips | training, 10^12 MACs |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        clips = "" if row.clip_agreement is None else f"{row.clip_agreement:.2f}"
        lines.append(
            f"| `digits_{row.recipe}` | `{row.solver}` | {row.evaluations} | {row.agreement:.3f} | "
            f"{row.frechet:.1f} | {clips} | {row.macs / 1e12:.2f} |"
        )
    agreement, frechet = rows[-1].real_agreement, rows[-1].real_frechet
    lines.append(f"| real digits |  |  | {agreement:.3f} | {frechet:.1f} |  |  |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
