"""Two text files that belong together line by line: finetrainers' `prompts.txt` beside `videos.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.errors import UserError
from core.progress import counted
from data.raw.annotations.text_encoding import Encoding, decoded, encoding_of
from data.raw.opening import read_within
from data.raw.tables.rows import HEAD, Row, Table

PROMPTS = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
MEDIA_LISTS = ("videos.txt", "video.txt", "images.txt", "image.txt")


def read(path: Path, encoding: Encoding, within: str) -> Table | None:
    """Open the pair of which `path` is the list of media; None if it is none.

    UserError if several lists lie in the folder, or the two do not have equally many lines.
    """
    texts = [path.with_name(name) for name in PROMPTS if path.with_name(name).is_file()]
    if path.name not in MEDIA_LISTS or not texts:
        return None
    lists = [name for name in MEDIA_LISTS if path.with_name(name).is_file()]
    if len(texts) > 1:
        raise UserError(
            f"{path.parent}: {' and '.join(file.name for file in texts)}: one list of prompts expected"
        )
    if len(lists) > 1:
        raise UserError(f"{path.parent}: {' and '.join(lists)} beside {texts[0].name}: one list expected")
    media, prompts = _lines(path, encoding, within), _lines(texts[0], encoding, within)
    if len(media) != len(prompts):
        raise UserError(
            f"{texts[0]} has {counted(len(prompts), 'line')}, {path.name} {len(media)}; "
            "line k of one belongs to line k of the other"
        )

    def rows(wanted: tuple[str, ...] = ()) -> Iterator[Row]:
        for number, (name, text) in enumerate(zip(media, prompts, strict=True), 1):
            yield Row(number, {"path": name.strip(), "text": text.strip()})

    head = tuple(row.fields for row, _ in zip(rows(), range(HEAD), strict=False))
    return Table(
        path, ("path", "text"), rows, head, f"line by line with {texts[0].name}", also=(texts[0].name,)
    )


def _lines(path: Path, encoding: Encoding, within: str) -> list[str]:
    """Return the lines of a file without blank ones at its end."""
    data = read_within(path, within)
    try:
        # by "\n" alone: a caption may hold other characters that `splitlines` divides at
        lines = decoded(data, encoding).replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        name = encoding_of(data, encoding)
        raise UserError(
            f"{path}: not text in {name} (byte {error.start}); encoding=latin-1 or cp1252?"
        ) from None
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
