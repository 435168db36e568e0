"""Refusals of the training job, and the lines of its plan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.batch import Batch
from core.checkpoint.weights import load_weights
from core.config.loading import load
from core.diffusion.objectives.config import ObjectiveConfig
from core.distributed.ranks import World
from core.draws import Draws
from core.errors import UserError
from core.run.claim import claim
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.dataset.schema import write_index
from data.latent.normalising import Normaliser, sample_posterior
from data.loading.sources.kinds import LatentSource
from data.reindexing.foreign import FOREIGN
from models.autoencoder.store import fingerprint
from tests.fresh_python import imported_by
from tests.integration.tiny_run import MODEL, STEP, make_autoencoder, make_latents, rows
from tests.tools.train.opened import load_data, open_checked
from tools.runs.latent_space import keep_latent_space
from tools.runs.loaded_run import LatentSpace
from tools.runs.normalisers import LatentsConfig, choose_normaliser
from tools.train import prepared
from tools.train.config import Config
from tools.train.job import plan, run
from tools.train.objective import LatentObjective

WORLD = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    make_autoencoder(folder / "autoencoder")
    return make_latents(folder / "latents", folder / "autoencoder")


def config(cache: Path, *fields: str) -> Config:
    common = (f"source={cache}", f"output={cache.parent / 'run'}", *MODEL, *STEP)
    return load(Config, overrides=[*common, *fields])


def keep(run: Path, source: LatentSource, autoencoder: Path) -> None:
    normaliser = choose_normaliser(source, LatentsConfig(), run, WORLD)
    keep_latent_space(run, source, autoencoder, ObjectiveConfig(), normaliser, LatentsConfig())


def test_a_cache_of_another_autoencoder_is_refused_with_both_values(cache: Path, tmp_path: Path) -> None:
    other = make_autoencoder(tmp_path / "other", seed=1)
    with pytest.raises(UserError) as refused:
        open_checked(config(cache, f"autoencoder={tmp_path / 'other'}"))
    made_by = Dataset(cache).manifest.extra["made_from"]["encoder"]
    assert str(refused.value) == (
        f"autoencoder={tmp_path / 'other'}: expected the one that made {cache}, with encoder={made_by}; "
        f"this one has encoder={other}"
    )
    make_autoencoder(tmp_path / "wider", width=16)
    with pytest.raises(UserError, match=r"with encoder_config.width=8; this one has encoder_config.width=16"):
        open_checked(config(cache, f"autoencoder={tmp_path / 'wider'}"))


def test_help_and_a_dry_run_load_neither_the_engine_nor_a_compiler(cache: Path) -> None:
    words = [f"source={cache}", f"output={cache.parent / 'run'}", *MODEL, *STEP, "--dry-run"]
    code = (
        "from launch.cli import main; main(['train', '--help']); assert main(['train', *sys.argv[1:]]) == 0"
    )
    modules, said = imported_by(code, *words)
    heavy = {"deepspeed", "torch._dynamo", "sympy", "diffusers", "wandb", "av"}
    assert (modules & heavy, said) == (set(), "")


def test_what_sampling_needs_is_kept_once_and_never_changes_under_a_run(cache: Path, tmp_path: Path) -> None:
    source, autoencoder = open_checked(config(cache))
    keep(tmp_path, source, autoencoder)
    kept = json.loads((tmp_path / "latents.json").read_text())
    assert kept["shapes"] == [[3, 1, 4, 4], [3, 3, 4, 4]]
    assert kept["encoder"] == fingerprint(tmp_path / "autoencoder")
    assert (kept["path"], kept["prediction"], kept["classes"][3]) == ("rectified_flow", "flow", "3")
    keep(tmp_path, source, autoencoder)
    source.facts = replace(source.facts, fingerprint="remade")
    with pytest.raises(UserError, match=r"was begun with cache=f; in .* it is remade"):
        keep(tmp_path, source, autoencoder)
    assert json.loads((tmp_path / "latents.json").read_text()) == kept


def test_what_was_dropped_and_which_classes_had_samples_is_kept(cache: Path, tmp_path: Path) -> None:
    source, autoencoder = open_checked(config(cache))
    keep(tmp_path, source, autoencoder)
    kept = json.loads((tmp_path / "latents.json").read_text())
    labels = np.load(cache / "index.npy")["label"]
    unlabelled, had = float((labels < 0).mean()), set(labels[labels >= 0].tolist())
    assert kept["null_share"] == {"label": pytest.approx(0.1 + 0.9 * unlabelled), "text": None}
    assert kept["untrained_classes"] == [n for i, n in enumerate(kept["classes"]) if i not in had]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ema.every=10 trainer.steps=9", "ema.every=10: expected at most trainer.steps=9"),
        (
            "optimizer.warmup_steps=9 trainer.steps=9",
            "optimizer.warmup_steps=9: expected below trainer.steps=9",
        ),
        ("validation.every=10 trainer.steps=9", "validation.every=10: expected at most trainer.steps=9"),
    ],
)
def test_what_cannot_act_in_so_few_steps_is_refused(cache: Path, words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(cache, *words.split())


def test_a_run_from_before_there_was_text_goes_on_and_is_read(cache: Path, tmp_path: Path) -> None:
    source, autoencoder = open_checked(config(cache))
    keep(tmp_path, source, autoencoder)
    kept = json.loads((tmp_path / "latents.json").read_text())
    later = {"text", "text_folder", "normalise", "null_share", "untrained_classes", "sha256"}
    older = {name: kept[name] for name in kept.keys() - later}
    (tmp_path / "latents.json").write_text(json.dumps(older))
    keep(tmp_path, source, autoencoder)
    assert json.loads((tmp_path / "latents.json").read_text()) == older
    space = LatentSpace.read(tmp_path)
    assert (space.text, space.text_folder) == (None, "")
    assert (space.null_share, space.untrained_classes) == (None, ())


def test_an_autoencoder_that_is_gone_is_asked_for(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"autoencoder=.*nowhere: expected the folder of the autoencoder"):
        open_checked(config(cache, f"autoencoder={tmp_path / 'nowhere'}"))


def test_a_cache_that_does_not_say_what_encoded_it_is_refused(tmp_path: Path) -> None:
    make_autoencoder(tmp_path / "autoencoder")
    cache = make_latents(tmp_path / "latents", tmp_path / "autoencoder")
    manifest = DatasetManifest.read(cache)
    replace(manifest, extra={**manifest.extra, "made_from": dict(FOREIGN)}).write(cache)
    with pytest.raises(
        UserError, match=r"source=.*: expected a cache that says what encoded it; `inspect CACH"
    ):
        open_checked(config(cache, f"autoencoder={tmp_path / 'autoencoder'}"))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("model.input_channels=4", "model.input_channels=4: expected 3, those of"),
        ("model.text_width=8", r"model.text_width=8: expected 0 for .*, since it holds no text"),
        ("model.num_classes=9", "model.num_classes=9: expected at least 10, those of"),
        ("model.patch=[1,3,3]", r"^model.patch=.*expected divisors of the input"),
    ],
)
def test_a_network_that_does_not_fit_the_cache_is_refused(cache: Path, field: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_checked(config(cache, field))


def test_a_refusal_names_every_field_that_does_not_fit(cache: Path) -> None:
    with pytest.raises(UserError) as refusal:
        open_checked(config(cache, "model.input_channels=4", "model.num_classes=9", "model.text_width=8"))
    named = ("model.input_channels=4: expected 3", "model.num_classes=9: expected", "model.text_width=8: exp")
    assert all(problem in str(refusal.value) for problem in named)


def test_training_a_variance_the_network_does_not_predict_is_refused(cache: Path) -> None:
    fields = ("objective.learned_sigma=true", "objective.path=ddpm_linear", "objective.prediction=noise")
    with pytest.raises(UserError, match=r"model.learned_sigma=False: expected true"):
        config(cache, *fields)
    assert open_checked(config(cache, *fields, "model.learned_sigma=true"))


def test_a_number_of_ranks_that_does_not_divide_a_group_is_refused_with_the_equation(cache: Path) -> None:
    with pytest.raises(UserError, match=r"8 = 2 x 3 \+ 2|8 = 3 x 2 \+ 2"):
        plan(config(cache, "processes=3"))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("model.mlp_ratio=0.01", r"model.mlp_ratio=0.01: expected at least 1/width = 1/16"),
        ("trainer.profile_from=2000", r"trainer.profile_from=2000: expected at most steps=1000, or 0"),
        ("seed=1e30", r"seed=1e30: expected an integer from 0 to 9223372036854775807"),
        ("validation_source=nowhere", r"^validation_source=nowhere: expected .*; nothing is there$"),
        ("data.also=[nowhere]", r"^data.also=nowhere: expected .*; nothing is there$"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(cache: Path, field: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(config(cache, field))


def test_the_plan_tells_groups_parameters_and_sizes(cache: Path) -> None:
    text = "\n".join(plan(config(cache, "trainer.steps=100", "processes=2")))
    for words in (
        "32 samples, 10 classes",
        "groups of 8 = 2 ranks x 4",
        "model: 15,212 parameters",
        "step: 16 samples",
        "run: 100 steps, 1.6e+03 samples",
        "checkpoint: 0.2 MiB, every 500 steps",
    ):
        assert words in text
    assert not (cache.parent / "run").exists()


@pytest.mark.parametrize(
    "fields",
    [("objective.timesteps.kind=logit_normal",), ("objective.path=ddpm_cosine", "objective.prediction=v")],
)
def test_what_is_made_ahead_is_what_the_step_would_make(cache: Path, fields: tuple[str, ...]) -> None:
    """To the bit, gradients too; and only under its own seed and step."""
    settings = config(cache, "seed=5", *fields)
    source, _ = open_checked(settings)
    (_, loader), _ = load_data(settings, source, WORLD)
    normaliser = Normaliser.from_dict(source.statistics(None, WORLD))
    plainly = LatentObjective(settings.objective, normaliser, frame_condition=True)
    taking = prepared.PreparedObjective(plainly)
    factor = torch.tensor(0.7, requires_grad=True)

    def outcome(
        batch: Batch, draws: Draws, objective: LatentObjective | prepared.PreparedObjective = plainly
    ) -> tuple[list[float], float]:
        losses = objective.loss(lambda x, time, condition: factor * x, batch, draws)
        (gradient,) = torch.autograd.grad(losses.loss.sum(), factor)
        return losses.loss.tolist(), float(gradient)

    batches = prepared.batches(loader.load, 2, plainly, seed=5)(3)
    for step in (3, 4):
        for made, plain in zip(next(batches), loader.load(step), strict=True):
            assert made.prepared is not None
            assert plain.prepared is None
            own, others = (Draws(5, k, plain.id, plain.position) for k in (step, step + 1))
            assert outcome(made, own, taking) == outcome(plain, own) == outcome(plain, own, taking)
            assert outcome(made, others, taking) == outcome(plain, others) != outcome(plain, own)
            changed = replace(made, x=torch.zeros_like(made.x))
            assert outcome(changed, own, taking) == outcome(plain, own)  # nothing is made again
    batches.close()  # type: ignore[attr-defined]


def test_the_network_sees_normalised_latents_of_the_posterior(cache: Path) -> None:
    settings = config(cache)
    source, _ = open_checked(settings)
    batch: Batch = load_data(settings, source, WORLD)[0].loader.load(0)[0]
    draws = Draws(0, 0, batch.id, batch.position)
    normaliser = Normaliser.from_dict(source.statistics(None, WORLD))
    expected = normaliser.apply(sample_posterior(batch.x, draws))
    objective = LatentObjective(settings.objective, normaliser, frame_condition=False)
    losses = objective.loss(lambda x, time, condition: torch.zeros_like(x), batch, draws)
    noise = draws.normal("noise", tuple(expected.shape[1:]))
    torch.testing.assert_close(losses.loss, (noise - expected).square().mean((1, 2, 3, 4)))


def test_a_finished_run_is_lengthened_where_no_step_depends_on_the_last(cache: Path, tmp_path: Path) -> None:
    def train(name: str, steps: int, *fields: str) -> Path:
        run(config(cache, f"output={tmp_path / name}", f"trainer.steps={steps}", *fields))
        return tmp_path / name

    common = ("model.attention=math", "optimizer.lr=0.02", "optimizer.warmup_steps=2", "trainer.save_every=2")
    longer, whole = train("longer", 3, *common), train("whole", 6, *common)
    assert train("longer", 6, *common) == longer
    assert rows(longer) == rows(whole)
    assert [row["step"] for row in rows(longer)] == [1, 2, 3, 4, 5, 6]
    for which in ("raw", "ema"):
        one, other = load_weights(longer, which), load_weights(whole, which)
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert json.loads((longer / "finished.json").read_text())["step"] == 6
    with pytest.raises(UserError, match=r"trainer\.steps=3: expected 6 or more"):
        train("longer", 3, *common)
    cosine = ("optimizer.schedule=cosine", f"output={tmp_path / 'cosine'}")
    claim(tmp_path / "cosine", config(cache, "trainer.steps=3", *cosine), done="", overwrite=False)
    (tmp_path / "cosine" / "metrics.jsonl").touch()  # as of a run that has done steps
    with pytest.raises(UserError, match=r"trainer\.steps=6: expected 3, with which"):
        train("cosine", 6, *cosine)


@pytest.mark.parametrize("largest", [10, 11])
def test_a_label_without_a_row_is_refused_before_the_run(cache: Path, tmp_path: Path, largest: int) -> None:
    """One more than the last class would be taken for no class, in silence."""
    unnamed = make_latents(tmp_path / "latents", cache.parent / "autoencoder")
    index = np.load(unnamed / "index.npy")
    index["label"][3] = largest
    manifest = DatasetManifest.read(unnamed)
    files = {**manifest.files, **write_index(unnamed, index)}
    replace(manifest, classes=(), files=files).write(unnamed)
    words = (f"output={tmp_path / 'run'}", "model.num_classes=10")
    expected = rf"model.num_classes=10: expected at least {largest + 1}, since .* has the label {largest}"
    for job in (plan, run):
        with pytest.raises(UserError, match=expected):
            job(config(unnamed, *words))
    assert not (tmp_path / "run").exists()
    plan(config(unnamed, *words, f"model.num_classes={largest + 1}"))


def test_a_path_that_no_sample_can_start_from_is_told(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "rates.txt"
    file.write_text("0.01\n0.02\n0.03\n")
    fields = ("objective.path=ddpm_file", f"objective.schedule.betas={file}", "objective.prediction=v")
    (said,) = [line for line in plan(config(cache, *fields)) if line.startswith("warning")]
    assert said.startswith("warning: objective.path=ddpm_file ends with 97% signal, and samples start from")
    assert not any(line.startswith("warning: objective.path") for line in plan(config(cache)))


@pytest.mark.parametrize("content", ["0.1\n1.0\n", "0.1\nnan\n", "0.1\n-0.2\n", "", None])
def test_a_dry_run_reads_files_of_rates_and_of_densities(
    cache: Path, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "numbers.txt"
    if content is not None:
        file.write_text(content)
    rates = config(cache, "objective.path=ddpm_file", f"objective.schedule.betas={file}")
    with pytest.raises(UserError, match=r"^objective\.schedule\.betas="):
        plan(rates)
    if content == "0.1\n1.0\n":  # densities of any size
        return
    times = config(cache, "objective.timesteps.kind=file", f"objective.timesteps.density={file}")
    with pytest.raises(UserError, match=r"^objective\.timesteps\.density="):
        plan(times)
