"""The video network of FVD, I3D trained on Kinetics-400, from the TorchScript file that StyleGAN-V publishes.

The file resizes clips to 224x224 and scales them by itself. TorchScript is a program, though one that cannot
call Python: use a file from a source that you trust.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError, WorkError
from core.files import open_regular, sha256_file

WIDTH = 400


class I3D(nn.Module):
    """Clips to the 400 numbers before the softmax (Unterthiner et al. 2018).  sha256: of the file."""

    def __init__(self, network: Any, sha256: str) -> None:
        super().__init__()
        self.network, self.sha256 = network.eval(), sha256

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """Return features (B, 400) of clips (B, 3, T, H, W) uint8; WorkError if the file cannot take them."""
        try:
            found: Tensor = self.network(clips, rescale=True, resize=True, return_features=True)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise WorkError(
                f"the I3D file cannot take clips of shape {tuple(clips.shape)}: {reason}"
            ) from None
        if found.shape != (len(clips), WIDTH):
            raise WorkError(
                f"the I3D file gives {tuple(found.shape)} for {len(clips)} clips, not {WIDTH} numbers each"
            )
        return found.float()


def load(path: Path, field: str) -> I3D:
    """Load the TorchScript file; UserError, naming `field`, if it is none."""
    try:
        with open_regular(path) as file:
            network = torch.jit.load(file, map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(field, path, f"the TorchScript file i3d_torchscript.pt ({reason})") from None
    return I3D(network, sha256_file(path))
