"""Events of a run, marked on its curves."""

from __future__ import annotations

from core.progress import counted
from core.records import Row
from tools.pages.plot_marks import Kind
from tools.report.output import History

MOST_SHOWN = 2000  # incidents
KEY = (
    ("start", "a start of the run"),
    ("ranks", "another number of ranks"),
    ("incident", "incident"),
    ("checkpoint", "checkpoint that is kept"),
)


def marks_of(history: History, name: str) -> tuple[list[float], list[tuple[Kind, str]]]:
    """Return the steps of all marks, and the kind and text of each.  name: of the run, "" for none."""
    begin = f"{name}: " if name else ""
    steps: list[float] = []
    marks: list[tuple[Kind, str]] = []

    def add(step: float, kind: Kind, text: str) -> None:
        steps.append(step)
        marks.append((kind, begin + text))

    for row, attempt in history.starts[1:]:
        before = int(history.step[max(0, row - 1)])
        add(before, "start", f"start {attempt or '(no name)'} went on after step {before:,}")
    for (_, was), (step, count) in zip(history.ranks, history.ranks[1:], strict=False):
        add(step, "ranks", f"{counted(count, 'rank')} from about step {step:,} on, and {was} before")
    for row_ in history.incidents[:MOST_SHOWN]:
        if isinstance(row_.get("step"), int):
            add(row_["step"], "incident", _incident(row_))
    for step, checkpoint in history.checkpoints:
        add(step, "checkpoint", f"checkpoint {checkpoint}")
    return steps, marks


def _incident(row: Row) -> str:
    step, kind = row["step"], row.get("kind", "incident")
    texts = {
        "spike": f"gradient norm {row.get('grad_norm')}, clipped to {row.get('clipped_to')}",
        "skipped": "gradients were not finite: no update",
        "rollback": f"back to before step {row.get('first')}; steps up to {row.get('last')} are passed over",
        "corrupt": "ranks differed: a machine computes wrongly",
        "tracker": f"{row.get('tracker')} failed: {row.get('reason')}",
    }
    return f"{kind} at step {step:,}: {texts.get(str(kind), '')}".rstrip(": ")
