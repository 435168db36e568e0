"""Describe, with counts, what samples of a raw dataset say of themselves (properties: docs/media.md)."""

from __future__ import annotations

from collections.abc import Mapping

MOST_VALUES = 6  # values of a property in one line
# Property -> (how it is called, what is done about it).
WORDS = {
    "kind": ("kinds beside JPEG, PNG, WebP and videos", "animated ones are films"),
    "colour": ("colours", "brought to BT.709 or sRGB unless kept"),
    "profile": ("ICC profiles", "brought to sRGB unless kept"),
    "film_profile": ("ICC profiles of films", "not applied"),
    "matrix": ("films that do not say their colour matrix", "by their size"),
    "alpha": ("alpha", "laid over white"),
    "depth": ("more than 8 bits a channel", "rounded once"),
    "pages": ("files of several pictures", "one is used, the others are not"),
    "behind": ("files that hold more behind their picture", "the picture is used"),
    "views": ("films of several views", "used as they are stored"),
    "rules": ("kinds that earlier versions of the media rules read otherwise", "docs/media.md"),
    "ignored": ("metadata passed over", "the pictures are used"),
    "stream": ("files with several films or covers", "one is used, the others are not"),
    "orientation": ("turned or mirrored", "shown as they say"),
    "pixel_aspect": ("pixels that are not square", "made square"),
    "pixel_shape": ("pictures that declare pixels of another shape", "taken as square, as browsers do"),
    "cropping": ("cropped by the container", "cut off"),
    "frame_rate": ("frames a second", "kept; buckets.fps takes what is on screen at each time"),
    "order": ("order of frames not told by times", "taken from the decoder"),
    "hidden": ("frames that the file hides", "not shown"),
    "interlacing": ("interlaced", "left so; buckets.deinterlace=auto makes whole pictures"),
}


def found_lines(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a line for each property that samples have: how many have which value, and what is done.

    found: {property: {value: samples}}.
    """
    lines = []
    for name in sorted(found, key=lambda name: list(WORDS).index(name) if name in WORDS else len(WORDS)):
        title, done = WORDS.get(name, (name, ""))
        counts = sorted(found[name].items(), key=lambda item: (-item[1], item[0]))
        shown = [f"{count} x {value}" for value, count in counts[:MOST_VALUES]]
        if rest := counts[MOST_VALUES:]:
            shown.append(f"{sum(count for _, count in rest)} x {len(rest)} other values")
        lines.append(f"{title}: {', '.join(shown)}" + (f" ({done})" if done else ""))
    return lines
