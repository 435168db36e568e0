"""All captions of one sample, as `inspect sample=N` shows them."""

from __future__ import annotations

from typing import Any

from core.errors import UserError
from core.escaping import escaped_line
from data.dataset.index import Dataset


def sample_texts(dataset: Dataset, row: int) -> tuple[dict[str, Any], list[str]]:
    """Return the captions of a sample as JSON values, and as lines; of a cache, where they are embedded.

    UserError if there is no such sample.
    """
    if row >= len(dataset):
        raise UserError("sample", row, f"a row below {len(dataset)}")
    found, problem = _raw(dataset, row) if dataset.manifest.kind == "raw" else (_cached(dataset, row), "")
    result = {"sample": row, "captions": found} | ({"problem": problem} if problem else {})
    if problem:
        return result, [f"sample {row}: its captions cannot be used: {problem}"]
    lines = [f"sample {row}: captions: {len(found)}"]
    total = sum(caption["weight"] for caption in found) or 1
    for number, caption in enumerate(found, 1):
        named = f" {caption['name']}" if caption["name"] else ""
        what = caption.get("text", f"{caption.get('tokens', 0)} tokens")
        lines.append(escaped_line(f"  {number}{named}, drawn {caption['weight'] / total:.1%}: {what}"))
    return result, lines


def _raw(dataset: Dataset, row: int) -> tuple[list[dict[str, Any]], str]:
    from data.latent.texts import captions_of_row

    captions, problem = captions_of_row(dataset, row)
    return [caption._asdict() for caption in captions], problem


def _cached(dataset: Dataset, row: int) -> list[dict[str, Any]]:
    from data.latent.text_reading import Captions, has_several, has_text, read_texts

    folder, manifest = dataset.folder, dataset.manifest
    if has_several(manifest):
        captions = Captions(folder, manifest)
        return [
            {"tokens": int(one["tokens"]), "name": captions.name(one), "weight": float(one["weight"])}
            for one in captions.of(row)
        ]
    tokens = int(read_texts(folder, manifest)[row]["tokens"]) if has_text(manifest) else 0
    return [{"tokens": tokens, "name": "", "weight": 1.0}] if tokens else []
