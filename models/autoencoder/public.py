"""Public autoencoders, read by diffusers from a local folder: frozen, and identified by a fingerprint.

Their classes differ in the shapes they take, in what they return, and in how latents are normalised. Here all
give raw moments as this project's autoencoder does, and say apart from that how their authors normalise them.
Which shapes fit is not written down: a copy without memory (on torch's meta device) encodes and decodes them.
"""

from __future__ import annotations

import inspect
import itertools
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from core.errors import UserError, WorkError
from core.files import fingerprint
from core.reading import json_files
from models import weights
from models.autoencoder.kl import PIXEL_CHANNELS
from models.autoencoder.tiling_config import TilingConfig
from models.foreign import read_by_library

IMAGE_CLASSES = ("AutoencoderKL", "AutoencoderDC")
VIDEO_CLASSES = ("AutoencoderKLWan", "AutoencoderKLCogVideoX", "AutoencoderKLCosmos", "AutoencoderKLLTXVideo")
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model*.safetensors*"
_PROBE = 256  # pixels: a multiple of every spatial compression in use
Shape = tuple[int, int, int]


class PublicAutoencoder(nn.Module):
    """An autoencoder of diffusers behind the interface of this project's own.

    Those for images take the frames of a clip one by one.  moments: 2, or 1 where there is no distribution.
    spatial_compression: rows and columns of pixels per latent row and column.
    normalisation: {"mean": [...], "std": [...]}, (latent - mean) / std as its authors bring latents to unit
    scale; a number per channel, or for each channel a number per latent frame (Cosmos).
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.kind, self.tiling = type(network).__name__, TilingConfig()
        settings = json_files.loaded(network.to_json_string().encode(), self.kind)
        self.settings = {
            "class": self.kind,
            **{name: value for name, value in settings.items() if not name.startswith("_")},
        }
        self.identity = fingerprint(self.settings | {"weights": weights.fingerprint(network.state_dict())})
        with torch.device("meta"):
            shadow = type(network).from_config(network.config).eval()
        self._shadow = [shadow.to("meta")]  # in a list, so that it is not a submodule
        self.trace = cache(self._trace)
        moments, _ = self.trace((1, _PROBE, _PROBE))
        _, self.moments, self.latent_channels, _, rows, _ = moments
        self.spatial_compression = _PROBE // rows
        self.normalisation = self._normalisation()

    def to(self, *arguments: Any, **options: Any) -> Self:
        """Move as nn.Module does; on a GPU channels then lie last, as its convolutions want them."""
        moved = super().to(*arguments, **options)
        if any(parameter.is_cuda for parameter in self.network.parameters()):
            channels_last(self.network)
        return moved

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, T, H, W) in [-1, 1] -> (B, M, C, T', H', W') float32: mean, log-variance if any.

        UserError for a shape of which it would lose frames, rows or columns.
        """
        self.latent_shape((pixels.shape[2], pixels.shape[3], pixels.shape[4]))
        return self._encode(self.network, pixels.to(self.network.dtype)).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, T', H', W'); returns (B, 3, T, H, W) float32."""
        latents = latents.to(self.network.dtype)
        if not any(self.settings.get("decoder_inject_noise", ())):
            return self._decode(self.network, latents).float()
        pixels = []
        for sample in latents.split(1):  # the noise must not depend on what else is in the batch
            with torch.random.fork_rng([latents.device] if latents.is_cuda else []):
                torch.manual_seed(0)
                pixels.append(self._decode(self.network, sample).float())
        return torch.cat(pixels)

    def latent_shape(self, shape: Shape) -> Shape:
        """Return latent (T', H', W') of pixels (T, H, W); UserError unless decoding gives this shape back."""
        (_, _, _, *latent), back = self.trace(shape)
        if back == shape:
            return latent[0], latent[1], latent[2]
        for name, size, returned in zip(("height", "width"), shape[1:], back[1:], strict=True):
            if size != returned:
                rule = f"a multiple of {self.spatial_compression}"
                raise UserError(name, size, f"{rule}, since {self.kind} gives {returned} back")
        near = " or ".join(map(str, self._frames_near(shape, back[0])))
        raise UserError("frames", shape[0], f"{near}, since {self.kind} gives {back[0]} back")

    def _frames_near(self, shape: Shape, back: int) -> list[int]:
        """Return a smaller and a larger number of frames that come back; `back` is a likely one."""
        frames, *size = shape
        fewer = [*([back] if back < frames else []), *range(frames - 1, 0, -1)]
        found = []
        for some in (fewer, range(frames + 1, frames + 33)):
            fits = (n for n in some if self.trace((n, *size))[1] == (n, *size))
            found += list(itertools.islice(fits, 1))
        return found

    def set_tiling(self, config: TilingConfig) -> None:
        """Turn on diffusers' own tiling, which blends tiles; UserError for what the class has not got."""
        self.tiling = config
        if config.frames:
            raise UserError("frames", config.frames, f"0: {self.kind} has its own parts in time")
        if not config.pixels:
            return
        space = self.spatial_compression
        if not (hasattr(self.network, "tiled_encode") or hasattr(self.network, "_tiled_encode")):
            raise UserError("pixels", config.pixels, f"0: {self.kind} has no tiling in diffusers")
        if config.pixels % (4 * space):
            raise UserError("pixels", config.pixels, f"a multiple of {4 * space}")
        sizes: dict[str, float] = {}
        for side in ("height", "width"):
            sizes[f"tile_sample_min_{side}"] = config.pixels
            sizes[f"tile_sample_stride_{side}"] = config.pixels * 3 // 4
            sizes[f"tile_overlap_factor_{side}"] = 0.25
        for network in (self.network, *self._shadow):
            known = inspect.signature(network.enable_tiling).parameters
            network.enable_tiling(**{name: size for name, size in sizes.items() if name in known})
            if hasattr(network, "tile_sample_min_size"):  # AutoencoderKL, whose switch has no sizes
                network.tile_sample_min_size, network.tile_latent_min_size = (
                    config.pixels,
                    config.pixels // space,
                )
        self.trace.cache_clear()

    def _normalisation(self) -> dict[str, Any]:
        """Return `normalisation`: latents_mean or shift_factor, and latents_std / scaling_factor."""
        settings, count = self.settings, self.latent_channels
        buffers = dict(self.network.named_buffers())
        given = {name: settings.get(name, buffers.get(name)) for name in ("latents_mean", "latents_std")}
        mean, std = (None if v is None else torch.as_tensor(v, dtype=torch.float64) for v in given.values())
        if mean is None:
            mean = torch.full((count,), settings.get("shift_factor") or 0.0, dtype=torch.float64)
        if std is None:
            std = torch.ones(count, dtype=torch.float64)
        std = std / (settings.get("scaling_factor") or 1.0)
        if mean.numel() > count:
            mean, std = (rearrange(values, "(c t) -> c t", c=count) for values in (mean, std))
        return {"mean": mean.tolist(), "std": std.tolist()}

    def _trace(self, shape: Shape) -> tuple[tuple[int, ...], Shape]:
        """Return the shapes of the moments of one input (T, H, W), and of what is decoded from them."""
        pixels, shadow = torch.zeros((1, PIXEL_CHANNELS, *shape), device="meta"), self._shadow[0]
        try:
            moments = self._encode(shadow, pixels)
            back = self._decode(shadow, moments[:, 0])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.kind} cannot take {'x'.join(map(str, shape))} pixels: {reason}") from None
        return tuple(moments.shape), (back.shape[2], back.shape[3], back.shape[4])

    def _encode(self, network: Any, pixels: Tensor) -> Tensor:
        frames = pixels.shape[2]
        if self.kind in IMAGE_CLASSES:
            pixels = rearrange(pixels, "b c t h w -> (b t) c h w")
        with torch.no_grad():
            output = network.encode(pixels)
        found = [output.latent] if hasattr(output, "latent") else [output.latent_dist.mode()]
        if hasattr(output, "latent_dist") and getattr(output.latent_dist, "logvar", None) is not None:
            found.append(output.latent_dist.logvar)
        moments = torch.stack(found, dim=1)
        if self.kind in IMAGE_CLASSES:
            return rearrange(moments, "(b t) m c h w -> b m c t h w", t=frames)
        return moments

    def _decode(self, network: Any, latents: Tensor) -> Tensor:
        frames = latents.shape[2]
        more = [latents.new_zeros(len(latents))] if self.settings.get("timestep_conditioning") else []
        if self.kind in IMAGE_CLASSES:
            latents = rearrange(latents, "b c t h w -> (b t) c h w")
        with torch.no_grad():
            pixels = network.decode(latents, *more).sample
        return (
            rearrange(pixels, "(b t) c h w -> b c t h w", t=frames) if self.kind in IMAGE_CLASSES else pixels
        )


def load(folder: Path) -> PublicAutoencoder:
    """Load the autoencoder saved in `folder`, in float32.

    UserError for a class that is not known, or where diffusers is missing; WorkError for damaged weights.
    """
    kind = json_files.read(folder / CONFIG, dict[str, Any]).get("_class_name")
    if not isinstance(kind, str) or kind not in IMAGE_CLASSES + VIDEO_CLASSES:
        raise UserError("autoencoder", kind, f"one of {', '.join(IMAGE_CLASSES + VIDEO_CLASSES)}")
    try:
        import diffusers
    except ImportError:
        raise UserError(
            f"{folder} holds a {kind} of diffusers, which is not installed: pip install 'longtake[public]'"
        ) from None
    with read_by_library(folder, kind):
        network, loading = getattr(diffusers, kind).from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,  # never a pickle
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    if missing := loading["missing_keys"]:
        raise WorkError(f"{folder}: its weights lack {len(missing)} of {kind}'s, {sorted(missing)[0]} first")
    return PublicAutoencoder(network)


def channels_last(network: nn.Module) -> None:
    """Lay the weights of convolutions out with channels last: what they compute then lies so too.

    Else CUDA's libraries transpose the input and the output of every convolution in half precision and TF32.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.dim()])
