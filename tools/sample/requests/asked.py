"""Read the prompts or requests of a sampling job from its config and files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from core.diffusion.sampling import SamplerConfig
from core.errors import UserError, below
from core.files import fingerprint, sha256_file
from tools.sample.config import Config, FilesConfig
from tools.sample.given.config import TaskConfig
from tools.sample.prompts import read_prompts
from tools.sample.requests.presets import PRESETS, PresetName, metadata_of
from tools.sample.requests.reading import Numbered, Wrong, read_requests, rows_of

USUAL_FPS = 12.0  # of films of a run that does not say at which rate its clips play


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """Settings of `sample` that say which samples are made, by the same names; see `tools.sample.config`."""

    seed: int
    count: int
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    prompt_file: str
    negative_class: str
    negative_prompt: str
    requests: str
    each: int
    bad_requests: int
    preset: PresetName
    labels: Literal["equal", "random"]
    files: FilesConfig
    frames: int
    height: int
    width: int
    fps: float
    task: TaskConfig
    trajectory: bool
    sampler: SamplerConfig

    def at_rate(self, fps: float | None) -> Self:
        """Return the settings with films at this rate, where none is asked for; None for one not known."""
        return replace(self, fps=self.fps or fps or USUAL_FPS)


@dataclass(frozen=True)
class Asked:
    """Prompts that take turns, or requests; metadata by number of a request's row.

    wrong: rows of the file that are no requests.
    files: SHA-256 of pictures and clips that samples are made from, by path.
    """

    texts: tuple[str, ...] = ()
    requests: tuple[Numbered, ...] = ()
    metadata: Mapping[int, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    wrong: tuple[Wrong, ...] = ()

    @property
    def hashes(self) -> list[str]:
        """A short hash of every request, by which a job knows them again."""
        return [self._hash(each) for each in self.requests]

    def _hash(self, each: Numbered) -> str:
        files = [self.files[path] for path in each.request.places.values()]
        facts = [each.request.as_recorded(), self.metadata.get(each.row, ""), *files]
        return fingerprint(facts)[:16]


def read_asked(settings: SampleSettings) -> Asked:
    """Read prompts or requests; UserError where there are none."""
    if not settings.requests:
        texts = read_prompts(settings.prompts, settings.prompt_file)
        return Asked(texts, files=_hashed(settings.task.places.values()))
    path = Path(settings.requests)
    rows = list(rows_of(path))
    listed = PRESETS[settings.preset].read(rows) if settings.preset else rows
    found, wrong = read_requests(listed, path)
    places = {path for each in found for path in each.request.places.values()}
    files = _hashed(places | {*settings.task.places.values()})
    return Asked((), tuple(found), metadata_of(settings.preset, rows), files, tuple(wrong))


def _hashed(paths: Iterable[str]) -> dict[str, str]:
    """Return the hashes of files; those that are missing are refused where they are read."""
    return {path: sha256_file(Path(path)) if Path(path).is_file() else "" for path in paths}


def set_by_preset(settings: SampleSettings) -> dict[str, Any]:
    """Return the settings that a preset fixes, by name; UserError where the config says otherwise."""
    if not settings.preset:
        return {}
    preset, usual = PRESETS[settings.preset], Config(source="", output="")
    if preset.needs_requests and not settings.requests:
        raise UserError("requests", "''", f"the list of prompts of preset={settings.preset}")
    with below("files"):
        files = replace(settings.files, kind=preset.kind, name=preset.name or usual.files.name)
    for name in ("kind", "name"):
        said = getattr(settings.files, name)
        if said not in (getattr(usual.files, name), getattr(files, name)):
            expected = f"{getattr(files, name)} with preset={settings.preset}"
            raise UserError(f"files.{name}", said, expected)
    if settings.each not in (usual.each, preset.each):
        raise UserError("each", settings.each, f"{preset.each} with preset={settings.preset}")
    return {"files": files, "each": preset.each}
