"""ImageNet's form: a tar for each class, whose files are called as the tar is, `n01440764_10026.JPEG`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath


def classes_by_name(tars: Sequence[str]) -> dict[str, str]:
    """Return the class of each tar by its name, {} for names of numbered parts (`data-000000`)."""
    classes = {name: PurePosixPath(name).stem for name in tars}
    bare = {re.sub(r"[-_.]\d+$|^\d+$", "", word) for word in classes.values()}
    return classes if len(bare) > 1 else {}


def fits(class_name: str, keys: Sequence[str]) -> bool:
    """Return whether the samples of a tar share its name. keys: of those with a picture."""
    pattern = re.compile(re.escape(class_name) + r"[-_ ]?\d+", re.I)
    return bool(keys) and all(pattern.fullmatch(key.removeprefix("./")) for key in keys)
