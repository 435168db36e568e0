"""Put the sections of a report together as one page."""

from __future__ import annotations

import time
from collections.abc import Sequence

from core.escaping import in_html
from tools.pages.page import page, section
from tools.pages.plot_frame import STYLE as PLOTS
from tools.report.output import Output
from tools.report.sections import overview, pieces
from tools.report.sections.curves import AXES, BELOW, curves
from tools.report.sections.marks import KEY
from tools.report.sections.noise_levels import noise_levels
from tools.sweep import results_page

SWITCH = "".join(
    f"<input type=radio name=axis id=by-{axis}{' checked' if axis == AXES[0] else ''}>"
    f"<label for=by-{axis}>by {BELOW[axis]}</label>"
    for axis in AXES
)
SHAPES = {
    "start": '<path d="M6 0V12"/>',
    "ranks": '<path d="M6 0V12"/>',
    "incident": '<path d="M6 11l-5 -9h10z"/>',
    "checkpoint": '<path d="M6 3l-3.5 6h7z"/>',
}
STYLE = """
body { max-width: 1180px; margin: 1.5rem auto; } h1 { overflow-wrap: anywhere; }
.charts { display: grid; gap: 1.4rem; }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.charts > div { min-width: 0; }
.by-samples, .by-hours { display: none; }
#by-samples:checked ~ section .by-step, #by-hours:checked ~ section .by-step { display: none; }
#by-samples:checked ~ section .by-samples, #by-hours:checked ~ section .by-hours { display: block; }
input[name=axis] + label { margin: 0 1rem 0 .25rem; cursor: pointer; }
.facts { display: grid; gap: .5rem 1.2rem; margin: 0; }
.facts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 200px), 1fr)); }
.facts dt { font-size: .8rem; opacity: .7; }
.facts dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin-bottom: 1rem; }
.wide td, .wide th { font-size: .86rem; vertical-align: top; }
.wide th { white-space: nowrap; }
td.id { font-size: .75rem; overflow-wrap: anywhere; min-width: 9rem; opacity: .8; }
tr + tr th { border-top: 1px solid var(--line); font-weight: 600; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .5em; }
.troubles { border-left: 4px solid #dc2626; padding-left: 1.4rem; overflow-wrap: anywhere; }
.marks { font-size: .82rem; display: flex; flex-wrap: wrap; gap: 0 1.1rem; margin: .6rem 0; }
.marks svg { width: 12px; height: 12px; vertical-align: -1px; margin-right: .3em; }
.picture { margin: 0 0 1.2rem; } .picture figcaption { margin-top: .3rem; overflow-wrap: anywhere; }
summary { cursor: pointer; } details pre { max-height: 32rem; overflow: auto; }
"""


def render(outputs: Sequence[Output], written: float, took: float, *, reload_s: int = 0) -> str:
    """Return the page.  written: the time that it says.  took: seconds that reading took.

    reload_s: seconds after which a browser reads it again, as long as an output goes on; 0 is never.
    """
    charts = curves(outputs)
    levels = noise_levels(outputs)
    sections = [
        section("What could not be read", overview.troubles(outputs)),
        section("Overview", overview.overview(outputs)),
        *_sweeps(outputs),
        SWITCH if charts or levels else "",
        section("Curves", _marks() + charts if charts else ""),
        section("Loss by noise level", levels),
        section("Pictures", pieces.pictures(outputs)),
        section("Scores", pieces.scores(outputs)),
        section("What differs", pieces.differences(outputs)),
        section("Data", pieces.summaries(outputs)),
        section("The same again", pieces.commands(outputs)),
    ]
    names = ", ".join(output.name for output in outputs)
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(written))
    goes_on = any(output.running for output in outputs)
    lead = f"As of {when}{'; it goes on' if goes_on else ''}; read in {took:.1f} s."
    body = "\n".join(filter(None, sections))
    again = reload_s if goes_on else 0
    return page(f"longtake report: {names}", lead, body, reload_s=again, more_style=PLOTS + STYLE)


def _sweeps(outputs: Sequence[Output]) -> list[str]:
    found = [(output.name, output.sweep) for output in outputs if output.sweep is not None]
    return [
        part
        for name, sweep in found
        for part in results_page.sections(sweep, name if len(outputs) > 1 else "")
    ]


def _marks() -> str:
    items = [
        f'<span><svg viewBox="0 0 12 12"><g class="mark {kind}">{SHAPES[kind]}</g></svg>'
        f"{in_html(text)}</span>"
        for kind, text in KEY
    ]
    return f"<div class=marks>{''.join(items)}</div>"
