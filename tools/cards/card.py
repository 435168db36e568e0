"""The model card: README.md beside weights, in Markdown with the head that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from core.config.yaml_files import as_yaml
from core.escaping import escaped_line
from tools.cards.facts import Facts
from tools.compare import Scored

CARD = "README.md"
SAMPLED_BY = "longtake sample source=. output=samples"
UNKNOWN = "unknown"  # what hubs take for a licence that was not given
_MARKUP = re.compile(r"([\\`*_\[\]<>|#])")


def card(facts: Facts, opened_by: str) -> str:
    """Return the text of the card.  opened_by: lines of a shell or of Python that use the weights."""
    sections = [_head(facts), _weights(facts), _data(facts), _recipe(facts), _scores(facts), _use(opened_by)]
    return "\n".join(line for section in sections for line in [*section, ""]).rstrip("\n") + "\n"


def _head(facts: Facts) -> list[str]:
    kind = str(facts.network.get("kind", "dit"))
    films = any(shape[1] > 1 for shape in facts.space["shapes"])
    tags = ["diffusion", kind, *(["text-to-video"] if films and facts.space.get("text") else [])]
    head = {"license": (facts.licence or UNKNOWN).lower(), "library_name": "longtake", "tags": tags}
    licence = f"`{facts.licence}`" if facts.licence else "none was given; ask who published these weights"
    title = _plain(facts.written.name)
    return ["---", as_yaml(head).rstrip("\n"), "---", "", f"# {title}", "", f"Licence: {licence}."]


def _weights(facts: Facts) -> list[str]:
    written, seen = facts.written, facts.samples_seen
    trained = f", {seen:,} samples seen" if seen else ""
    step = f"step {written.step:,} ({written.updates:,} updates{trained})" if written.step else "converted"
    rows = {
        "weights": f"{written.weights} of checkpoint {written.checkpoint}, {step}",
        "parameters": f"{written.parameters:,}, in {written.dtype}",
        "network": ", ".join(
            f"{name}={value}" for name, value in facts.network.items() if value not in ("", None)
        ),
    }
    return ["## Weights", "", *_table(("", ""), rows.items())]


def _data(facts: Facts) -> list[str]:
    space, identity = facts.space, facts.identity
    shapes = ", ".join("x".join(map(str, shape)) for shape in space["shapes"])
    rows = {
        "fingerprint of the data": identity.get("data", "not recorded"),
        "fingerprint of the autoencoder": space["encoder"],
        "latents (channels x frames x rows x columns)": shapes,
        "classes": str(len(space["classes"])),
        "text encoder": str(space["text"]) if space.get("text") else "none",
    }
    return ["## Data", "", *_table(("", ""), rows.items())]


def _recipe(facts: Facts) -> list[str]:
    versions = ", ".join(f"{name} {value}" for name, value in facts.versions.items())
    text = as_yaml(facts.recipe).rstrip("\n")
    known = [f"Trained with {_plain(versions)}.", ""] if versions else []
    return ["## Recipe", "", *known, "```yaml", text.replace("```", "` ` `"), "```"]


def _scores(facts: Facts) -> list[str]:
    if not facts.scores:
        return ["## Scores", "", "None were given."]
    lines = [
        "## Scores",
        "",
        "A score means something beside its ruler alone: what measured it, on how much.",
    ]
    for scored in facts.scores:
        lines += ["", *_one(scored)]
    return lines


def _one(scored: Scored) -> list[str]:
    numbers = {name: f"{value:.6g}" for name, value in scored.scores.items()}
    ruler = dict(_leaves(scored.ruler or {})) or {"": "not recorded"}
    subject = dict(_leaves(scored.subject))
    return [
        *_table(("score", "value"), numbers.items()),
        "",
        *_table(("ruler", ""), ruler.items()),
        "",
        *_table(("samples", ""), subject.items()),
    ]


def _use(opened_by: str) -> list[str]:
    return ["## Use", "", "```", opened_by, "```"]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", str(value)


def _table(head: tuple[str, str], rows: Any) -> list[str]:
    cells = [f"| {_plain(name)} | {_plain(value)} |" for name, value in rows]
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *cells]


def _plain(text: object) -> str:
    """Return a text of others as Markdown that shows it and means nothing."""
    return _MARKUP.sub(r"\\\1", escaped_line(str(text)))
