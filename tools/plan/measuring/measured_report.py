"""What was measured, as lines for a person and as plain values."""

from __future__ import annotations

from typing import Any

from core.diffusion.objectives.config import GRADIENT_PASSES
from core.metrics.devices import Device
from core.progress import aligned
from tools.plan.measuring.even_groups import EVEN
from tools.plan.measuring.measure import Measurement
from tools.plan.step_samples import Workload


def lines_of_measurement(
    found: Measurement, configured: Workload, work: Workload, asked: int, device: Device | None
) -> list[str]:
    """Return the lines that tell a measurement.

    configured, work: the samples of a step, in the configured and in the chosen groups.  asked: the
    `rank_multiple` of the former.
    """
    head = ("micro-batch", "measured ms", "predicted ms", *(("data sheet ms",) if device else ()))
    rows = [head]
    for size, seconds in sorted(found.times.items()):
        bucket = work.buckets[size.bucket]
        predicted = found.model.seconds(size.samples, bucket.tokens)
        rows.append(
            (
                f"{size.samples} of {bucket.name}",
                f"{1000 * seconds:.4g}",
                f"{1000 * predicted:.4g}",
                *((f"{1000 * _least(found, size, device):.4g}",) if device else ()),
            )
        )
    model = found.model
    return [
        f"measured on {found.device}, forward and backward{_more(configured)}; an update takes "
        f"{1000 * found.update:.3g} ms",
        *aligned(rows),
        f"predicted: {1e3 * model.micro_batch:.3g} ms a micro-batch, and a sample of S tokens "
        f"{1e6 * model.fixed:.3g} + {1e6 * model.linear:.3g} S + {1e6 * model.quadratic:.3g} S^2 "
        f"microseconds; off by {found.error:.1%} at most",
        *_groups(found, configured, work, asked),
        "",
    ]


def _more(work: Workload) -> str:
    """Say by how much the times of an objective that takes more than these are multiplied."""
    passes, kind = work.objective.passes, work.objective.kind
    usual = GRADIENT_PASSES
    return "" if passes == usual else f", times {passes}/{usual} for objective.kind={kind}"


def _groups(found: Measurement, configured: Workload, work: Workload, asked: int) -> list[str]:
    if len(work.buckets) == 1:
        return [f"one shape: its groups of {work.buckets[0].group} stay as they are"]
    rows = [("group of", "before", "ms", "now", "ms")]
    each = zip(work.buckets, configured.buckets, found.before, found.seconds, strict=True)
    for bucket, earlier, before, now in each:
        rows.append(
            (bucket.name, str(earlier.group), f"{1000 * before:.4g}", str(bucket.group), f"{1000 * now:.4g}")
        )
    lines = [
        *aligned(rows),
        f"group times spread by {found.spread:.1%} as measured (predicted {found.choice.spread:.1%}), "
        f"longest less shortest over the mean; as configured by {found.spread_before:.1%} (predicted "
        f"{found.predicted_before:.1%})",
    ]
    return [*lines, *_multiple(found, asked), *_uneven(found)]


def _multiple(found: Measurement, asked: int) -> list[str]:
    """Say that groups became smaller multiples, since that limits the ranks that the run can have."""
    multiple = found.choice.data.rank_multiple
    if multiple == asked:
        return []
    return [
        f"multiples of data.rank_multiple={asked} are less even: it becomes {multiple}, so the run can have "
        f"as many data-parallel ranks as divide {multiple}; plan.ranks={asked} keeps all that divide {asked}"
    ]


def _uneven(found: Measurement) -> list[str]:
    if found.spread <= EVEN:
        return []
    if found.even_size is None:
        return [
            f"they spread by more than {EVEN:.0%}: fewer plan.ranks, which share a group, or a larger one"
        ]
    return [f"they spread by more than {EVEN:.0%}: data.group_size={found.even_size} is predicted not to"]


def _least(found: Measurement, size: Any, device: Device | None) -> float:
    return found.flops[size] / (device.tflops * 1e12) if device else 0.0


def measurement_figures(found: Measurement, work: Workload) -> dict[str, Any]:
    """Return a measurement as plain values for JSON."""
    model = found.model
    return {
        "device": found.device,
        "micro_batches": [
            {
                "bucket": work.buckets[size.bucket].name,
                "samples": size.samples,
                "seconds": seconds,
                "predicted": model.seconds(size.samples, work.buckets[size.bucket].tokens),
            }
            for size, seconds in sorted(found.times.items())
        ],
        "model": {
            "micro_batch": model.micro_batch,
            "fixed": model.fixed,
            "linear": model.linear,
            "quadratic": model.quadratic,
        },
        "update_s": found.update,
        "groups": [bucket.group for bucket in work.buckets],
        "rank_multiple": found.choice.data.rank_multiple,
        "group_s": list(found.seconds),
        "spread": found.spread,
        "spread_before": found.spread_before,
        "spread_before_predicted": found.predicted_before,
        "spread_predicted": found.choice.spread,
    }
