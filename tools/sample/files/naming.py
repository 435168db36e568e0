"""Names of the files of samples, made from a template such as `{class}/{index:06d}`."""

from __future__ import annotations

import string
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from core.errors import UserError

FIELDS = ("index", "row", "k", "class", "prompt", "name", "folder", "seed", "number", "part")
LONGEST = 255  # bytes of a name on nearly all file systems
_NUMBERS = ("index", "row", "k", "seed", "number", "part")


def require_template(template: str) -> None:
    """Raise UserError, naming the field `name`, for a template with other fields than `FIELDS`."""
    expected = f"text with fields of {', '.join('{' + name + '}' for name in FIELDS)}"
    try:
        fields = [found for _, found, _, _ in string.Formatter().parse(template) if found is not None]
    except ValueError as error:
        raise UserError("name", template, f"{expected} ({error})") from None
    if wrong := [name for name in fields if name not in FIELDS]:
        raise UserError("name", template, f"{expected}, not {{{wrong[0]}}}")
    try:
        template.format(**{name: 0 if name in _NUMBERS else "" for name in FIELDS})
    except ValueError as error:
        raise UserError("name", template, f"{expected} ({error})") from None


def fill(template: str, suffix: str, values: dict[str, int | str]) -> str:
    """Return the path of a file below the output, with `/` between folders.

    Values stand in it as they are: UserError where one leads out of its folder, or the file system cannot
    hold it.
    """
    for name, value in values.items():
        if isinstance(value, str) and "/" in value and "{" + name in template:
            raise UserError("name", template, f"values without '/' in {{{name}}}, not {value!r}")
    path = template.format(**values) + suffix
    pieces = path.split("/")
    for piece in pieces:
        if piece in ("", ".", "..") or "\0" in piece:
            raise UserError("name", template, f"a path below the output, not {path!r}")
        if (size := len(piece.encode())) > LONGEST:
            shorter = " (a template can cut a text: {name:.80})" if len(piece) > 80 else ""
            raise UserError(
                "name", template, f"names of at most {LONGEST} bytes, not {size}: {piece[:60]!r}...{shorter}"
            )
    return str(PurePosixPath(path))


def ignores_case(folder: Path) -> bool:
    """Return whether names that differ in letter case alone are one file in a folder, which may be missing.

    The nearest folder above it whose name has letters tells, by its name in the other case.
    """
    here = folder.absolute()
    for place in (here, *here.parents):
        other = place.with_name(place.name.swapcase()) if place.name else place
        if other != place and place.exists():
            return other.exists() and other.samefile(place)
    return False


def require_different(names: Iterable[str], taken: Iterable[str], *, any_case: bool) -> None:
    """Raise UserError where two samples would have one file, or one of the job's own.

    any_case: whether the file system ignores letter case, in which names of some benchmarks differ alone.
    """
    same = str.casefold if any_case else str
    seen = {same(name): "one of the job itself" for name in taken}
    for index, name in enumerate(names):
        if (other := seen.setdefault(same(name), f"sample {index}")) != f"sample {index}":
            raise UserError(
                "name", name, f"another name for every sample: sample {index} and {other} have this one"
            )
