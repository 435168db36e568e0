"""Pictures, scores, settings, summaries and commands of outputs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from core.config.yaml_files import as_yaml
from core.escaping import in_html
from tools.pages.axes import shown
from tools.report.output import Output, Picture

MOST_PICTURES = 40


def pictures(outputs: Sequence[Output]) -> str:
    """Return pictures and videos, with what they are of."""
    found = [(output, picture) for output in outputs for picture in output.pictures]
    several = len(outputs) > 1
    figures = [_picture(output.name if several else "", picture) for output, picture in found[:MOST_PICTURES]]
    if len(found) > MOST_PICTURES:
        figures.append(f"<p><small>{len(found) - MOST_PICTURES} more are not shown.</small></p>")
    return "".join(figures)


def _picture(whose: str, picture: Picture) -> str:
    data = f"data:{picture.kind};base64,{base64.b64encode(picture.data).decode('ascii')}"
    name = in_html(" ".join(filter(None, (whose, picture.name))))
    if picture.kind.startswith("video/"):
        shown_ = f'<video src="{data}" autoplay loop muted playsinline controls></video>'
    else:
        shown_ = f'<img alt="{name}" src="{data}">'
    note = f" <small>{in_html(picture.note)}</small>" if picture.note else ""
    return f"<figure class=picture>{shown_}<figcaption>{name}{note}</figcaption></figure>"


def scores(outputs: Sequence[Output]) -> str:
    """Return a column for each set of scores, with what they are of below."""
    found = [(output, each) for output in outputs for each in output.scores]
    if not found:
        return ""
    names = list(dict.fromkeys(name for _, each in found for name in each.values))
    identities = list(dict.fromkeys(name for _, each in found for name in each.identity))
    head = "".join(f"<th>{in_html(output.name)}</th>" for output, _ in found)
    rows = [_row(name, [_value(each.values.get(name)) for _, each in found], "n") for name in names]
    rows += [_row(name, [each.identity.get(name, "") for _, each in found], "id") for name in identities]
    return f"<div class=wide><table><tr><th>score</th>{head}</tr>{''.join(rows)}</table></div>"


def _row(name: str, values: Sequence[str], kind: str) -> str:
    cells = "".join(f"<td class={kind}>{in_html(value)}</td>" for value in values)
    return f"<tr><td>{in_html(name)}</td>{cells}</tr>"


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return shown(value)


def differences(outputs: Sequence[Output]) -> str:
    """Return the settings that are not the same in all outputs of one job, a column each."""
    tables = []
    for kind in dict.fromkeys(output.kind for output in outputs):
        alike = [output for output in outputs if output.kind == kind and output.config]
        if len(alike) < 2:
            continue
        configs = [_flat(output.config) for output in alike]
        names = [
            name
            for name in dict.fromkeys(name for flat in configs for name in flat)
            if len({flat.get(name, "(absent)") for flat in configs}) > 1
        ]
        head = "".join(f"<th>{in_html(output.name)}</th>" for output in alike)
        rows = [_row(name, [flat.get(name, "(absent)") for flat in configs], "n") for name in names]
        body = "".join(rows) or f"<tr><td colspan={len(alike) + 1}>none differ</td></tr>"
        tables.append(f"<div class=wide><table><tr><th>{in_html(kind)}</th>{head}</tr>{body}</table></div>")
    return "".join(tables)


def _flat(config: Any, path: str = "") -> dict[str, str]:
    if isinstance(config, dict) and config:
        found: dict[str, str] = {}
        for name, value in config.items():
            found |= _flat(value, f"{path}.{name}" if path else str(name))
        return found
    return {path: str(config)}


def summaries(outputs: Sequence[Output]) -> str:
    """Return what datasets hold, as text."""
    return "".join(
        f"<details{' open' if len(outputs) == 1 else ''}><summary>{in_html(output.name)}</summary>"
        f"<pre>{in_html(chr(10).join(output.lines))}</pre></details>"
        for output in outputs
        if output.lines
    )


def commands(outputs: Sequence[Output]) -> str:
    """Return the command that repeats each output, and its whole config."""
    parts = []
    for output in outputs:
        if output.command:
            code = output.facts.get("code")
            note = f"# {output.name}: {output.kind}" + (f", made by {code}" if code else "")
            parts.append(f"<pre>{in_html(note)}\n{in_html(output.command)}</pre>")
        if output.config:
            text = in_html(as_yaml(output.config))
            parts.append(
                f"<details><summary>config of {in_html(output.name)}</summary><pre>{text}</pre></details>"
            )
    return "".join(parts)
