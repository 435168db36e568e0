"""Score generated samples against real data: class agreement, Fréchet distance, variety, copies, motion.

A score stands beside the same measure on real data that the classifier has not seen, nor, where a held-out
dataset is given, the generator; without that neighbour a number says little.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import terminal
from core.config.sections import section
from core.errors import UserError
from core.files import write_json
from core.run.folder import SCORES
from tools.evaluate import scored
from tools.evaluate.config import CLIP_EXTRACTORS, Config
from tools.runs import score_names as names
from tools.runs.samples import Samples, find_samples, require_one_origin


def plan(config: Config) -> list[str]:
    """Say what would be compared."""
    if config.measure == "reconstruction":
        from tools.evaluate import reconstruction

        scored.require_reconstructed(config.real, config.source)
        reconstruction.opened(section(reconstruction.Comparison, config))
        height, width = config.reconstruction.size
        images = f"at most {config.most_real} images of {config.real} at {width}x{height}"
        return [f"{images}, encoded and decoded by {config.source}", f"into {config.output}"]
    if config.measure != "samples":
        from tools.evaluate.density.of_cache import choose, opened

        asked = opened(config.source, config.real, config.density, "cpu")
        count, exact = len(choose(asked.cache, config.density.count, config.seed)), asked.trained
        named = f"{exact.weights} weights of {exact.checkpoint}"
        return [
            f"{config.measure} of {count} samples of {config.real}, under the {named}",
            f"into {config.output}",
        ]
    samples = find_samples(Path(config.source))
    require_one_origin(samples)
    if config.imported:
        from tools.evaluate.packages import imported

        scores = len(imported.read(Path(config.imported)))
        return [f"{scores} scores of {config.imported}, by {config.package}", f"into {config.output}"]
    found = [
        f"{s.count} {'images' if s.frames == 1 else f'clips of {s.frames} frames'} in {s.folder}, {s.origin}"
        for s in samples
    ]
    scored.require_real(config.real, config.heldout, config.autoencoder, config.reference)
    heldout = f", held out: {config.heldout or 'a fifth of it'}" * (config.extractor == "classifier")
    return [
        *found,
        f"against {config.real or config.reference}" + heldout,
        f"into {config.output}",
    ]


def run(config: Config) -> None:
    """Measure what is asked for, write scores.json and print the table."""
    from core.progress import counted, say
    from core.run.claim import claim

    output, scores = Path(config.output), Path(config.output) / SCORES
    samples: list[Samples] = []
    if config.measure == "reconstruction":
        from tools.evaluate import reconstruction

        options = config.reconstruction
        of = scored.require_reconstructed(config.real, config.source)
        pairs = section(reconstruction.Comparison, config)
        networks = reconstruction.opened(pairs)
        lpips = {"lpips_network": options.lpips_network, "lpips_weights": options.lpips_weights}
        of |= scored.hashes_of_weights({f"reconstruction.{name}": file for name, file in lpips.items()})
    elif config.imported:
        from tools.evaluate.packages import imported

        samples = find_samples(Path(config.source))
        if len(samples) > 1:
            raise UserError("source", config.source, "one folder of samples, with imported")
        imported.read(Path(config.imported))
        of = scored.describe(Path(config.source), samples, {})
    elif config.measure == "samples":
        samples = samples_to_score(config.source, config.extractor)
        beside = scored.require_real(config.real, config.heldout, config.autoencoder, config.reference)
        of = scored.describe(Path(config.source), samples, beside)  # before old scores are removed
    else:
        from tools.evaluate.density import of_cache, summary

        opened = of_cache.opened(config.source, config.real, config.density, config.device)
        of = dict(opened.of)
    files = {"extractor_weights": config.extractor_weights, "imported": config.imported}
    of |= scored.hashes_of_weights(files)
    contents = scored.contents(scores, of)
    if claim(output, config, done=SCORES, overwrite=config.overwrite, contents=contents) == "finished":
        scored.require_of(scores, of)
        say(f"{output}: finished before")
        return
    for generated in samples:
        say(f"{generated.folder}: {counted(generated.count, 'sample')}, {generated.origin}")
    if config.measure == "reconstruction":
        record = reconstruction.scores_of(pairs, networks, of, output)
    elif config.imported:
        record = imported.scores_of(samples[0], section(imported.Import, config), of)
    elif config.measure != "samples":
        record = opened.measure(config.measure, output, seed=config.seed)
    elif config.extractor != "classifier":
        from tools.evaluate.extractors import by_network

        network = section(by_network.Comparison, config)
        record = by_network.scores_of(samples[0], network, of)
    else:
        from tools.evaluate import by_classifier

        classifier = section(by_classifier.Comparison, config)
        record = by_classifier.scores_of(samples, classifier, of, beside, output)
    write_json(scores, record)
    by_density = config.measure in ("likelihood", "bound")
    shown = summary.table(record, config.measure) if by_density else table(record)
    terminal.tell(shown, to="stdout")


def samples_to_score(source: str, extractor: str) -> list[Samples]:
    """Return the folders of samples at a place; UserError where these are not scored together."""
    samples = find_samples(Path(source))
    if len({s.frames > 1 for s in samples}) != len(samples):
        raise UserError("source", source, "at most one folder of images and one of clips")
    require_one_origin(samples)
    of_clips = extractor in CLIP_EXTRACTORS
    if extractor != "classifier" and (len(samples) > 1 or (samples[0].frames > 1) != of_clips):
        kind = "clips" if of_clips else "images"
        raise UserError("source", source, f"one folder of {kind}, with extractor={extractor}")
    return samples


def table(scores: Mapping[str, Any]) -> str:
    """Lay the scores out for a terminal, each beside the one of held-out real data where there is one."""
    lines = [f"{'score':18}{'generated':>12}{'real':>12}"]
    for name, value in scores.items():
        if names.is_of_real(name) or not isinstance(value, int | float):
            continue
        if isinstance(value, bool):
            continue
        real = scores.get(names.real(name))
        lines.append(f"{name:18}{_number(value):>12}{_number(real):>12}".rstrip())
    if not scores.get("heldout_unseen", True):
        lines.append("the real images compared with were also seen by the generator: no heldout= was given")
    if warning := scores.get("warning"):
        lines.append(str(warning))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"
