"""Alternatives for a refused command, and what overwriting would cost."""

from __future__ import annotations

from pathlib import Path

from core.files import published_below
from core.progress import counted, duration, size
from core.run.folder import CONFIG, LOCK

NOT_WORK = (CONFIG, LOCK)
SHORT_S = 60.0  # a time shorter than this is not reported


def ways_out(made: str, instead: str, another: str = "another output") -> str:
    """End a refusal to continue an output: other ways first, then what `overwrite=true` would remove.

    made: the output's content, as `holds` or its job describes it; "" for none.
    instead: changes with which the output can be continued.  another: the other output that is offered.
    """
    if not made:
        return f"go on with {instead}, or take {another}, or overwrite=true: no work is lost"
    return f"go on with {instead}, or take {another}; overwrite=true would remove {made}"


def holds(output: Path) -> str:
    """Count files, bytes and time written into an output beside its config; "" for none."""
    files = [path for path in published_below(output) if _is_work(path, output)]
    if not files:
        return ""
    facts = [path.stat() for path in files]
    times = [fact.st_mtime for fact in facts]
    took = max(times) - min(times)
    written = f", written in {duration(took)}" if took >= SHORT_S else ""
    return f"{counted(len(files), 'file')} of {size(sum(fact.st_size for fact in facts))}{written}"


def _is_work(path: Path, output: Path) -> bool:
    return str(path.relative_to(output)) not in NOT_WORK and not path.is_symlink()
