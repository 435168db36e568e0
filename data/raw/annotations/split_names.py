"""Words by which folders, tars and tables are called after the splits of a dataset."""

from __future__ import annotations

import re

SPLITS = (
    *("train", "training", "trn", "val", "validation", "valid", "dev", "eval", "evaluation"),
    *("test", "testing", "tst", "trainval", "restval", "holdout"),
)
_NUMBERED = re.compile(rf"({'|'.join(SPLITS)})(?:\d*|(?-i:[AB]))", re.I)  # `trainA` of CycleGAN
_FOLDER = re.compile(rf"(?:partial-|split=)?(?:{'|'.join(SPLITS)})", re.I)  # of Hugging Face, of Hive


def is_split(name: str) -> bool:
    """Return whether a word, or the name of a folder, is that of a split and nothing else."""
    return bool(_FOLDER.fullmatch(name))


def split_in(stem: str) -> str:
    """Return the one split that is among the words of a name, "" for none or several.

    It is `train` for `train-00000-of-00001`, `cc3m-train-0000`, `metadata_train`, `train2017`
    and `trainA`.
    """
    found = [match for word in re.split(r"[-_. ]+", stem) if (match := _NUMBERED.fullmatch(word))]
    return found[0].group(1) if len(found) == 1 else ""
