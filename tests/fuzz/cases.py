"""Which job reads which files, and what is asked of a job that met a damaged one."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.damage import Damage, apply
from tests.fuzz.forking import LIMIT_BYTES, TIMED_OUT, Ended
from tests.fuzz.material import AUTOENCODER, ENCODE, EVALUATE, SAMPLE, SHARD, SURVEYED, TRAIN

REFUSED = ("nothing",)  # results of a job that has to refuse damage to files whose hash is recorded
STATUSES = (0, 1, 2, 75)
CHECKPOINT = "run/checkpoints/*/*"


@dataclass(frozen=True)
class Case:
    """A command line and the files it reads.

    folders: what is copied for it.  files: patterns of the files that are damaged.  recorded: of those of
    which a hash is recorded, so the job refuses them or makes the same `results`.
    """

    words: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    recorded: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


DATASET = ("dataset.json", "*.npy", "*.tar", "config.yaml")


def _of(folder: str, names: tuple[str, ...] = DATASET) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for name in names)


RUN = tuple(
    f"run/{name}"
    for name in (
        *("run.lock", "latents.json", "config.yaml", "*.jsonl", "attention.json", "autoencoder/*", "ema/*/*"),
        *("checkpoints/*.json", "checkpoints/*/*.json", "checkpoints/*/*.safetensors"),
    )
)
EXPORT = tuple(f"export/{name}" for name in ("*.json", "*.yaml", "model.safetensors", "autoencoder/*"))
AE = ("autoencoder/autoencoder/*",)
SAMPLES = ("samples/samples.json", "samples/samples.npz", "samples/made_from.json")
CASES = (
    Case(f"{SHARD}out", ("files",), ("files/*/*",)),
    Case("shard annotated output=out", ("annotated",), ("annotated/a/*.json", "annotated/a/*.cls")),
    Case("shard tables/rows.csv output=out", ("tables",), ("tables/rows.csv",)),
    Case("shard tables/rows.jsonl output=out", ("tables",), ("tables/rows.jsonl",)),
    Case("shard tables/rows.json output=out", ("tables",), ("tables/rows.json",)),
    Case("shard tables/rows.parquet output=out", ("tables",), ("tables/rows.parquet",)),
    Case("report demo", ("demo",), ("demo/*.json", "demo/*/*.json", "demo/*/*.jsonl")),
    Case("jobs submitted", ("submitted",), ("submitted/*.jsonl", "submitted/submissions/**/*")),
    Case("shard tars output=out", ("tars",), ("tars/*.tar",)),
    Case("shard shard.yaml output=out", ("files", "shard.yaml"), ("shard.yaml",)),
    Case(f"{SURVEYED}sharding", ("files", "sharding"), ("sharding/.receipts/*", "sharding/config.yaml")),
    Case("inspect raw", ("raw",), _of("raw")),
    Case("inspect raw sheet=sheet.png", ("raw",), _of("raw")),
    Case("inspect raw action=verify", ("raw",), _of("raw"), _of("raw", ("*.npy", "*.tar")), REFUSED),
    Case("inspect latents", ("latents",), _of("latents")),
    Case(
        "inspect latents action=verify",
        ("latents",),
        _of("latents"),
        _of("latents", ("*.npy", "*.tar")),
        REFUSED,
    ),
    Case("inspect latents action=reindex", ("latents", "raw"), _of("latents")),
    Case("inspect raw action=reindex", ("raw",), _of("raw")),
    Case("inspect run", ("run",), RUN),
    Case("inspect run action=verify", ("run",), RUN, (CHECKPOINT,), REFUSED),
    Case("inspect export", ("export",), EXPORT, ("export/model.safetensors",), REFUSED),
    Case(f"{AUTOENCODER}out", ("raw",), _of("raw")),
    Case(f"{AUTOENCODER}autoencoder", ("raw", "autoencoder"), ("autoencoder/*", "autoencoder/*/*")),
    Case(
        f"{ENCODE}out",
        ("raw", "autoencoder"),
        (*_of("raw"), *AE),
        ("autoencoder/autoencoder/w*",),
        ("out/*.tar",),
    ),
    Case(
        f"{ENCODE}encoding",
        ("raw", "autoencoder", "encoding"),
        ("encoding/.receipts/*", "encoding/.leases/*", "encoding/config.yaml", "encoding/*.tar"),
    ),
    Case(
        f"{ENCODE}encoding action=status", ("raw", "encoding"), ("encoding/.receipts/*", "encoding/.leases/*")
    ),
    Case(f"{ENCODE}encoding action=verify", ("raw", "encoding"), ("encoding/.receipts/*", "encoding/*.tar")),
    Case(
        f"{ENCODE}encoding action=repair",
        ("raw", "autoencoder", "encoding"),
        ("encoding/.receipts/*", "encoding/.leases/*", "encoding/*.tar"),
    ),
    Case(f"{ENCODE}latents action=repair", ("raw", "autoencoder", "latents"), _of("latents")),
    Case(f"{TRAIN}out", ("latents", "autoencoder"), (*_of("latents"), *AE)),
    Case(
        f"{TRAIN}run",
        ("latents", "autoencoder", "run"),
        RUN,
        (CHECKPOINT,),
        ("run/checkpoints/step-00000004*/*.safetensors",),
    ),
    Case(f"{SAMPLE}out", ("run",), RUN, (CHECKPOINT, "run/autoencoder/w*"), ("out/samples.npz",)),
    Case(
        f"{SAMPLE}out".replace("sample run", "sample export"),
        ("export",),
        EXPORT,
        ("export/model.safetensors", "export/autoencoder/w*"),
        ("out/samples.npz",),
    ),
    Case(
        f"{SAMPLE}sampling",
        ("run", "sampling"),
        ("sampling/*", "sampling/parts/*"),
        ("sampling/made_from.json", "sampling/parts/*"),
        ("sampling/samples.npz",),
    ),
    Case(f"{SAMPLE}samples", ("run", "samples"), SAMPLES),
    Case(f"{SAMPLE}out prompt_file=prompts.txt", ("run", "prompts.txt"), ("prompts.txt",)),
    Case(
        f"{EVALUATE}out",
        ("samples", "raw", "autoencoder"),
        (*SAMPLES, *_of("raw")),
        ("samples/samples.npz",),
        ("out/scores.json",),
    ),
    Case(f"{EVALUATE}scores", ("samples", "raw", "autoencoder", "scores"), ("scores/*",)),
    Case("export run output=out", ("run",), RUN, (CHECKPOINT,), ("out/model.safetensors",)),
    Case("export run output=out ema_sigma=0.08", ("run",), RUN, ("run/ema/*/*",), ("out/model.safetensors",)),
    Case("export run output=export overwrite=true", ("run", "export"), EXPORT),
)


def copy(case: Case, material: Path, folder: Path) -> None:
    """Copy what a case needs into a new folder."""
    folder.mkdir(parents=True)
    for name in case.folders:
        source = material / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / name)


def matching(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """The names of the files of these patterns, sorted."""
    found = {
        p.relative_to(folder).as_posix() for pattern in patterns for p in folder.glob(pattern) if p.is_file()
    }
    return sorted(found)


def results(case: Case, folder: Path) -> dict[str, str]:
    """SHA-256 of each file that the case compares."""
    names = matching(folder, case.results)
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def damaged(folder: Path, name: str, damage: Damage) -> bool:
    """Damage a file; whether its content is another one now."""
    path = folder / name
    before = path.read_bytes()
    apply(damage, path)
    return not path.exists() or path.read_bytes() != before


def problem(case: Case, name: str, ended: Ended, folder: Path, expected: dict[str, str]) -> str:
    """What is wrong with how the job ended; "" for nothing.  expected: `results` without any damage."""
    if ended.status == TIMED_OUT:
        return "it took more than a minute"
    if ended.status not in STATUSES:
        return f"exit status {ended.status}"
    if ended.peak > LIMIT_BYTES:
        return f"{ended.peak >> 20} MiB of memory"
    texts = [ended.stderr, *(path.read_text(errors="replace") for path in folder.glob("*/logs/*"))]
    if found := next((text for text in texts if "Traceback (most recent call last)" in text), ""):
        return f"a traceback: {found[found.index('Traceback') :]}"
    if warning := re.search(r"^\S+: \w*Warning: .*$", ended.stderr, re.MULTILINE):
        return f"a library's warning: {warning[0]}"
    told = [line for line in ended.stderr.splitlines() if line.startswith("longtake ")]
    if ended.status and (len(told) != 1 or ended.stderr.splitlines()[-1] != told[0]):
        return f"not one line that tells why, at the end: {told}"
    if not ended.status and name in matching(folder, case.recorded):
        if case.results == REFUSED:
            return "a damaged file whose hash is recorded was taken for whole"
        if results(case, folder) != expected:
            return "a damaged file whose hash is recorded gave another result"
    return ""
