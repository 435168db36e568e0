"""Two text files that belong together line by line: finetrainers' `prompts.txt` beside `videos.txt`.

CogVideo's image-to-video trainer has `images.txt` as a third; LTX-Video-Trainer writes `NAME_captions.txt`
and `NAME_paths.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.errors import UserError
from core.progress import counted
from data.raw.annotations.text_encoding import Encoding, decoded, encoding_of, readings
from data.raw.opening import read_within
from data.raw.tables.rows import HEAD, Row, Table

PROMPTS = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt")
VIDEO_LISTS = ("videos.txt", "video.txt")
IMAGE_LISTS = ("images.txt", "image.txt")
PATHS, CAPTIONS = "_paths.txt", "_captions.txt"


def read(path: Path, encoding: Encoding, within: str) -> Table | None:
    """Open the pair of which `path` is the list of media; None if it is none.

    A list of images beside one of videos names their conditions. UserError if several lists lie in the
    folder, or those that belong together do not have equally many lines.
    """
    prompts, conditions = _partners(path)
    if prompts is None:
        return None
    names = {"path": path, "text": prompts} | {file.name: file for file in conditions}
    columns = {column: _lines(file, encoding, within) for column, file in names.items()}
    for column, file in names.items():
        if len(columns[column]) != len(columns["path"]):
            raise UserError(
                f"{file} has {counted(len(columns[column]), 'line')}, {path.name} {len(columns['path'])}; "
                "line k of one belongs to line k of the other"
            )

    def rows(wanted: tuple[str, ...] = ()) -> Iterator[Row]:
        for number, values in enumerate(zip(*columns.values(), strict=True), 1):
            yield Row(number, dict(zip(columns, map(str.strip, values), strict=True)))

    head = tuple(row.fields for row, _ in zip(rows(), range(HEAD), strict=False))
    also = (prompts.name, *(file.name for file in conditions))
    return Table(path, tuple(columns), rows, head, f"line by line with {' and '.join(also)}", also=also)


def _partners(path: Path) -> tuple[Path | None, list[Path]]:
    """Return the list of captions that belongs to a list of media, None for none, and lists of conditions."""
    if path.name.endswith(PATHS):
        captions = path.with_name(path.name.removesuffix(PATHS) + CAPTIONS)
        return (captions, []) if captions.is_file() else (None, [])
    if path.name not in (*VIDEO_LISTS, *IMAGE_LISTS) or not (texts := _there(path, PROMPTS)):
        return None, []
    videos, images = _there(path, VIDEO_LISTS), _there(path, IMAGE_LISTS)
    for kind, files in (("prompts", texts), ("videos", videos), ("images", images)):
        if len(files) > 1:
            shown = " and ".join(file.name for file in files)
            raise UserError(f"{path.parent}: {shown}: one list of {kind} expected")
    if videos and path.name in IMAGE_LISTS:
        return None, []  # read with the list of videos
    return texts[0], [file for file in images if file != path]


def _there(path: Path, names: tuple[str, ...]) -> list[Path]:
    return [file for name in names if (file := path.with_name(name)).is_file()]


def _lines(path: Path, encoding: Encoding, within: str) -> list[str]:
    """Return the lines of a file without blank ones at its end."""
    data = read_within(path, within)
    try:
        # by "\n" alone: a caption may hold other characters that `splitlines` divides at
        lines = decoded(data, encoding).replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        name = encoding_of(data, encoding)
        raise UserError(f"{path}: not text in {name} (byte {error.start}); {readings(data)}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return lines
