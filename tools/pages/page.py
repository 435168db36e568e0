"""A self-contained HTML page: its frame and its look."""

from __future__ import annotations

from core.escaping import in_html

# Nothing is loaded from elsewhere and no script runs, so a text that got past `in_html` would do nothing.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def page(title: str, lead: str, body: str) -> str:
    """Return a page. title, lead: texts.  body: HTML, whose texts went through `core.escaping.in_html`."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{in_html(title)}</title>'
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n'
        f"<body><h1>{in_html(title)}</h1><p>{in_html(lead)}</p>\n{body}\n</body></html>\n"
    )


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
pre { background: var(--soft); padding: 1rem; border-radius: 6px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; }
svg { max-width: 100%; height: auto; margin-right: 8px; }
svg text { font: 12px system-ui; fill: currentColor; }
"""
