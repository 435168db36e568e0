"""What the workers of a sampling job share out: ranges of samples, each of which one worker generates.

The first worker divides the samples by its `batch` and records that in a file, so that all use the same
ranges. A worker with a smaller batch makes a range in several batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypedDict

from core.errors import WorkError
from core.files import write_json_once
from core.reading import json_files
from core.reading.json_files import Malformed
from core.reading.json_scalars import Range
from tools.sample.parts import DamagedPart, Store

CUT = "units.json"  # in the folder of leases


class _Cut(TypedDict):
    samples: Annotated[int, Range(1, 1 << 31)]


def agreed_size(leases: Path, parts: Store, batch: int) -> int:
    """Return how many samples make a unit; the number noted first stays.

    Where only parts are there, as an earlier version left them, theirs counts, so that they are used.
    """
    path = leases / CUT
    if not path.exists():
        there, _ = parts.listed()
        write_json_once(path, {"samples": max(map(len, there), default=batch)})
    try:
        return json_files.read(path, _Cut)["samples"]
    except Malformed as error:
        raise WorkError(f"{error}; without {leases}, which holds no samples, the job goes on") from None


def cut(stretches: Iterable[range], size: int) -> dict[str, range]:
    """Return the units by name, in order.  stretches: ranges of samples that can be generated together."""
    ranges = [range(start, min(start + size, whole.stop)) for whole in stretches for start in whole[::size]]
    return {f"{rows.start:06d}-{rows.stop - 1:06d}": rows for rows in ranges}


def unusable(parts: Store, units: dict[str, range]) -> dict[Path, str]:
    """Return the files among the parts that cannot be used, and why; all parts are read."""
    listed, foreign = parts.listed()
    found = dict.fromkeys(foreign, "its name is not one of a part of this job")
    known = set(units.values())
    for rows in listed:
        try:
            if rows not in known:
                raise DamagedPart("its samples are not those that one worker takes here")
            parts.check(rows)
        except DamagedPart as problem:
            found[parts.path(rows)] = str(problem)
    return found
