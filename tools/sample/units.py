"""What the workers of a sampling job share out: ranges of samples, each of which one worker generates.

The first worker cuts the samples, by its `batch`, and says so in a file, so that all speak of the same
ranges. A worker with a smaller batch makes its part of several.
"""

from __future__ import annotations

import json
from pathlib import Path

from core.errors import WorkError
from core.files import read_bytes, write_json_once
from tools.sample.parts import DamagedPart, Parts

LEASES = ".leases"  # inside the output, until the samples are there
CUT = "units.json"  # in it
_MOST_BYTES = 4096


def agreed_size(leases: Path, parts: Parts, batch: int) -> int:
    """How many samples make a unit; what is noted first stays.

    Where only parts are there, as an earlier version left them, theirs counts, so that they are used.
    """
    path = leases / CUT
    if not path.exists():
        there, _ = parts.listed()
        write_json_once(path, {"samples": max(map(len, there), default=batch)})
    try:
        size = json.loads(read_bytes(path, _MOST_BYTES))["samples"]
    except (ValueError, KeyError, TypeError, RecursionError):
        size = None
    if type(size) is not int or size < 1:
        raise WorkError(f"{path} is damaged; without {leases}, which holds no samples, the job goes on")
    return size


def cut(count: int, size: int) -> dict[str, range]:
    """The units of `count` samples by name, in order."""
    ranges = [range(start, min(start + size, count)) for start in range(0, count, size)]
    return {f"{rows.start:06d}-{rows.stop - 1:06d}": rows for rows in ranges}


def unusable(parts: Parts, units: dict[str, range]) -> dict[Path, str]:
    """The files among the parts that cannot be used, and why; all parts are read."""
    listed, foreign = parts.listed()
    found = dict.fromkeys(foreign, "its name is not one of a part of this job")
    known = set(units.values())
    for rows in listed:
        try:
            if rows not in known:
                raise DamagedPart("its samples are not those that one worker takes here")
            parts.read(rows)
        except DamagedPart as problem:
            found[parts.path(rows)] = str(problem)
    return found
