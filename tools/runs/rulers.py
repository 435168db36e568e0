"""What every score carries: the ruler that it was measured by, and the subject that was measured.

Scores with different rulers are numbers of different things; `longtake compare` refuses to rank them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.files import fingerprint
from tools.runs.sample_files import rows_of
from tools.runs.samples import FILES, Samples, read_made_from

OF, RULER, SUBJECT = "of", "ruler", "subject"  # in scores.json, beside the scores
PAIRS = "closest_pairs"  # samples and the training pictures that are most alike
BESIDE_SCORES = (OF, RULER, SUBJECT, PAIRS)
SUBJECTS = ("run", "checkpoint", "weights", "weights_sha256", "autoencoder", "sampler", "seed")
GUIDES = ("weak", "classifier")  # further networks, of samples that were guided by such


def of_samples(samples: Sequence[Samples], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return both records.  measured: what the scores were measured by and against."""
    kinds = {"images" if each.frames == 1 else "clips": each for each in samples}
    ruler = {**measured, "samples": {name: _form(each) for name, each in sorted(kinds.items())}}
    subject = {name: _one(samples, name) for name in SUBJECTS}
    subject |= {name: _one(samples, name) for name in GUIDES if any(name in each.record for each in samples)}
    begun = [read_made_from(each.folder) for each in samples]
    precisions = {record.get("precision", "fp32") if record else None for record in begun}
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
    files = samples.record.get("files", {"kind": "npz"})
    prompts = samples.record.get("prompts", [])
    return {
        "count": samples.count,
        "frames": samples.frames,
        "height": samples.height,
        "width": samples.width,
        "fps": samples.record.get("fps") if samples.frames > 1 else None,
        "files": files.get("kind"),
        "quality": files.get("quality"),
        "labels": samples.record.get("labels", "equal"),
        "prompts_sha256": fingerprint(prompts) if prompts else None,
    }


def _one(samples: Sequence[Samples], name: str) -> Any:
    """Return what all folders have in common; the values of each where they differ."""
    values = [each.record.get(name) for each in samples]
    return values[0] if all(value == values[0] for value in values) else values
