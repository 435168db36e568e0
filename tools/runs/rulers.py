"""The records with every score: its ruler (how it was measured) and its subject (what was measured).

Scores with different rulers are numbers of different things; `longtake compare` refuses to rank them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from core.files import fingerprint
from tools.runs.sample_files import FileRow, rows_of
from tools.runs.samples import FILES, Samples, read_made_from

OF, RULER, SUBJECT = "of", "ruler", "subject"  # in scores.json, beside the scores
PAIRS = "closest_pairs"  # samples and the training pictures that are most alike
WARNING = "warning"  # where there are too few samples for a score
BESIDE_SCORES = (OF, RULER, SUBJECT, PAIRS, WARNING)
SUBJECTS = ("run", "checkpoint", "weights", "weights_sha256", "autoencoder", "sampler", "seed")
GUIDES = ("weak", "classifier")  # further networks, of samples that were guided by such
ASKED = ("requests", "task", "negative_class", "negative_prompt", "text_encoder", "tiling")  # of made_from


def warning_of_few(count: int, fewest: int, what: str, score: str) -> dict[str, str]:
    """Return a warning where so few samples (`what`) make the covariance of a score singular, {} elsewhere.

    fewest: of which it is not.
    """
    if count >= fewest:
        return {}
    few = f"fewer than {fewest} {what}"
    return {WARNING: f"{few}: the covariance is singular, and {score} is larger for that"}


def of_samples(samples: Sequence[Samples], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return both records.  measured: what the scores were measured by and against."""
    kinds = {"images" if each.frames == 1 else "clips": each for each in samples}
    ruler = {**measured, "samples": {name: _form(each) for name, each in sorted(kinds.items())}}
    subject = {name: _one(samples, name) for name in SUBJECTS}
    subject |= {name: _one(samples, name) for name in GUIDES if any(name in each.record for each in samples)}
    begun = [read_made_from(each.folder) for each in samples]
    precisions = {record.get("precision", "fp32") if record else None for record in begun}
    for name in ASKED:
        said = [(record or {}).get(name) for record in begun]
        if any(said):
            subject[name] = said[0] if all(each == said[0] for each in said) else said
    subject["precision"] = precisions.pop() if len(precisions) == 1 else sorted(map(str, precisions))
    told = {prompts_rewritten(each) for each in samples}
    subject["prompts_rewritten"] = told.pop() if len(told) == 1 else None
    return {RULER: ruler, SUBJECT: subject}


def prompts_rewritten(samples: Samples) -> bool | None:
    """Return whether samples were made from other texts than their names, as where prompts are rewritten.

    None where samples with prompts are no files of their own, which do not say.
    """
    if not (samples.folder / FILES).is_file():
        return None if samples.record.get("prompts") else False
    requests = [row["request"] for row in rows_of(samples.folder / FILES)]
    return any(each.get("name") and each.get("prompt", each["name"]) != each["name"] for each in requests)


def _form(samples: Samples) -> dict[str, Any]:
    """Return what of samples belongs to the ruler: how many, how large, in which files, of which texts."""
    record, begun = samples.record, read_made_from(samples.folder) or {}
    written = record.get("written") or record.get("files", {"kind": "npz"})
    rows = rows_of(samples.folder / FILES) if (samples.folder / FILES).is_file() else []
    prompts, classes = _prompts(samples, rows, begun), _classes(rows, begun)
    return {
        "count": samples.count,
        "frames": samples.frames,
        "height": samples.height,
        "width": samples.width,
        "fps": record.get("fps") if samples.frames > 1 else None,
        "files": written.get("kind"),
        "quality": written.get("quality"),
        "labels": record.get("labels", "equal"),
        "classes_sha256": fingerprint(classes) if classes else None,
        "prompts_sha256": fingerprint(prompts) if prompts else None,
    }


def _prompts(samples: Samples, rows: Sequence[FileRow], begun: Mapping[str, Any]) -> Any:
    """Return the texts that samples are to show: of each, its name where it was made from a rewritten one.

    Samples in one file of arrays have those of the job, and those in more than a manifest holds the hash of
    their requests.
    """
    if not rows:
        return begun.get("prompts") or samples.record.get("prompts") or begun.get("requests")
    asked = [row["request"] for row in rows]
    texts = [each.get("name") or each["prompt"] if each.get("prompt") else "" for each in asked]
    return texts if any(texts) else None


def _classes(rows: Sequence[FileRow], begun: Mapping[str, Any]) -> Any:
    """Return the classes that samples are to show: those whose turns samples take, or how many of each."""
    if turns := begun.get("labels"):
        return turns
    counts = Counter(str(row["request"].get("class", "")) for row in rows)
    return sorted(counts.items()) if set(counts) - {""} else None


def _one(samples: Sequence[Samples], name: str) -> Any:
    """Return what all folders have in common; the values of each where they differ."""
    values = [each.record.get(name) for each in samples]
    return values[0] if all(value == values[0] for value in values) else values
