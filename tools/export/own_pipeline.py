"""Make an export a diffusers pipeline of its own, for networks that DiTPipeline cannot hold.

`DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)` opens it; its
pictures are those that `longtake sample` makes of the folder, which it asks for them.
"""

from __future__ import annotations

from pathlib import Path

from core.files import write_json, write_text
from tools.convert.config import INDEX

MODULE = "pipeline.py"  # as diffusers looks for it
OPENED_BY = (
    "DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)"
    "  # of diffusers, beside longtake\n"
    "longtake sample source=FOLDER output=samples"
)
SOURCE = '''"""A pipeline of diffusers around weights of longtake, which must be installed beside it.

    pipeline = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    images = pipeline(count=4, seed=0, sampler={"guidance": 3.0}).images

Every argument is a setting of `longtake sample`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput


@dataclass
class LongtakeOutput(BaseOutput):
    """images: (N, H, W, 3) uint8, of clips (N, T, H, W, 3).  labels: (N,), -1 for no class."""

    images: np.ndarray
    labels: np.ndarray


class LongtakePipeline(DiffusionPipeline):
    """Samples of the export in the folder that the pipeline was opened from."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, **settings: Any) -> LongtakeOutput:
        """Return samples, bit for bit those that `longtake sample` writes with the same settings."""
        import longtake

        made = longtake.open_run(Path(self.config._name_or_path)).sample(**settings)
        return LongtakeOutput(images=made.pixels, labels=made.labels)
'''


def add_pipeline(folder: Path) -> None:
    """Write what diffusers reads beside the files of an export."""
    write_json(folder / INDEX, {"_class_name": "LongtakePipeline"})
    write_text(folder / MODULE, SOURCE)
