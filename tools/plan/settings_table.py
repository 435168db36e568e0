"""The memory of a rank with every setting of a plan, as a table for a person."""

from __future__ import annotations

from typing import Any

from core.metrics.devices import GB
from core.progress import aligned

COLUMNS = 8  # numbers of samples at once that are shown


def lines_of_settings(found: dict[str, Any]) -> list[str]:
    """Lay out the memory of a rank for each engine, stage and policy, by samples of the largest bucket.

    Shown are at most COLUMNS numbers of samples at once, spread over all that divide a rank's configured
    share. Tokens are shared as configured; of other numbers of ranks that share them, the first setting that
    fits is shown. JSON has all settings, numbers of samples and buckets.
    """
    number = [bucket["name"] for bucket in found["buckets"]].index(found["largest_bucket"])
    has_limit = found["device"] is not None
    degree = found["configured"]["sequence_parallel"]
    shown = _shown(found["settings"], degree)
    by_samples = [{one["samples"]: one for one in each["by_micro_batch"][number]} for each in shown]
    columns = _spread(list(by_samples[0]), COLUMNS)
    rows = [("engine", "tokens by", "stage", "checkpointing", "state", *map(str, columns), "chosen", "all")]
    for each, sizes in zip(shown, by_samples, strict=True):
        cells = [_cell(sizes.get(samples), has_limit=has_limit) for samples in columns]
        chosen = ", ".join(map(str, each["micro_batches"]))
        state = f"{sum(each['parts'].values()) / GB:.3g}"
        rows.append((*_names(each), state, *cells, chosen, _cell(each, has_limit=has_limit)))
    brackets = ", in brackets what does not fit" if has_limit else ""
    return [
        f"GB of a rank: the state of training, with it so many samples of {found['largest_bucket']} at once, "
        f"and all with the samples chosen{brackets}:",
        *aligned(rows),
    ]


def _shown(settings: list[dict[str, Any]], degree: int) -> list[dict[str, Any]]:
    """Return the settings with tokens shared as configured, then of each other degree the first that fits."""
    shown = [each for each in settings if each["sequence_parallel"] == degree]
    fitting: dict[int, dict[str, Any]] = {}
    for each in settings:
        if each["fits"] and each["sequence_parallel"] != degree:
            fitting.setdefault(each["sequence_parallel"], each)
    return [*shown, *fitting.values()]


def _names(setting: dict[str, Any]) -> tuple[str, str, str, str]:
    degree, stage = str(setting["sequence_parallel"]), str(setting["zero_stage"])
    return setting["engine"], degree, stage, setting["activation_checkpointing"]


def _cell(size: dict[str, Any] | None, *, has_limit: bool) -> str:
    if size is None:
        return "-"
    number = f"{size['bytes'] / GB:.3g}"
    return f"({number})" if has_limit and not size["fits"] else number


def _spread(numbers: list[int], most: int) -> list[int]:
    """Return at most so many of the numbers, the first and the last among them."""
    if len(numbers) <= most:
        return numbers
    return [numbers[round(place * (len(numbers) - 1) / (most - 1))] for place in range(most)]
