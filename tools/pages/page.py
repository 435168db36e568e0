"""A self-contained HTML page: its frame, its look, and pictures and films inside it."""

from __future__ import annotations

import base64
from pathlib import Path

from core.escaping import in_html
from core.files import read_bytes

# Nothing is loaded from elsewhere and no script runs, so a text that got past `in_html` would do nothing.
MADE_BY = '<meta name="generator" content="longtake">'
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def page(title: str, lead: str, body: str, *, reload_s: int = 0, more_style: str = "") -> str:
    """Return a page. title, lead: texts.  body: HTML, whose texts went through `core.escaping.in_html`.

    reload_s: seconds after which the browser reads the page again; 0 is never.
    """
    again = f'<meta http-equiv="refresh" content="{reload_s}">' if reload_s else ""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">{again}'
        f'<meta name="viewport" content="width=device-width">{MADE_BY}<title>{in_html(title)}</title>'
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}{more_style}</style></head>\n'
        f"<body><h1>{in_html(title)}</h1><p>{in_html(lead)}</p>\n{body}\n</body></html>\n"
    )


def section(title: str, content: str) -> str:
    """Return a section with its heading; "" without content."""
    return f"<section><h2>{in_html(title)}</h2>{content}</section>" if content else ""


def picture(path: Path) -> str:
    """Return a PNG file as an element that holds it; "" where there is none."""
    data = _inline(path)
    return f'<img alt="{in_html(path.name)}" src="data:image/png;base64,{data}">' if data else ""


def side_by_side(*paths: Path) -> str:
    """Return the pictures that there are, from left to right."""
    pictures = "".join(f"<div>{shown}</div>" for path in paths if (shown := picture(path)))
    return f"<div class=pair>{pictures}</div>" if pictures else ""


def video(path: Path) -> str:
    """Return an MP4 file as an element that holds it and plays it in a loop; "" where there is none."""
    data = _inline(path)
    source = f'src="data:video/mp4;base64,{data}"'
    return f"<video {source} autoplay loop muted playsinline controls></video>" if data else ""


def _inline(path: Path) -> str:
    return base64.b64encode(read_bytes(path)).decode("ascii") if path.is_file() else ""


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.9rem; margin: 0; } h1 + p { margin: 0 0 2rem; opacity: .75; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem; }
img, video { max-width: 100%; border-radius: 6px; display: block; }
.pair { display: flex; gap: 16px; } .pair > div { flex: 1 1 0; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .35rem .6rem; text-align: left; }
tr + tr td { border-top: 1px solid var(--line); } td.n { font-variant-numeric: tabular-nums; }
small { opacity: .7; } .yes { color: #059669; } .no { color: #dc2626; font-weight: 600; }
.later { opacity: .6; font-style: italic; }
.error { border-left: 4px solid #dc2626; padding: .4rem 1rem; background: var(--soft); }
.error { overflow-wrap: anywhere; white-space: pre-wrap; }
pre { background: var(--soft); padding: 1rem; border-radius: 6px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; }
svg { max-width: 100%; height: auto; margin-right: 8px; }
svg text { font: 12px system-ui; fill: currentColor; }
"""
