"""The diffusion transformer with adaLN-Zero (DiT, arXiv:2212.09748), for images and video alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from core.batch import Condition
from core.config.settings import setting
from core.distributed.sequence import SequenceGroup, gather_tokens, split_tokens
from core.errors import UserError
from models.attention.choice import AttentionHeads
from models.attention.dispatch import Backend
from models.denoisers.network import Denoiser, output_channels
from models.layers.adaln_block import Block
from models.layers.conditions import frame_channels, labels, text_tokens
from models.layers.embeddings import (
    Grid,
    LabelEmbedding,
    PatchEmbedding,
    TimeEmbedding,
    rotary_angles,
    sincos_positions,
    unpatchify,
)
from models.layers.transformer import CrossAttention, Modulation, SelfAttention, norm_modulate


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The shape of a DiT; a preset gives a published one, of which all can still be overridden."""

    presets: ClassVar[Mapping[str, DiTConfig]]

    kind: Literal["dit"] = setting("dit", "the kind of network")
    preset: str = setting("", "a published shape: DiT-{S,B,L,XL}/{2,4,8}; '' for none")
    input_channels: int = setting(4, "input channels, which are the channels of the latents", low=1)
    patch: tuple[int, int, int] = setting(
        (1, 2, 2), "frames, rows and columns of a patch, which becomes one token"
    )
    width: int = setting(384, "width of a token (hidden size)", low=1)
    depth: int = setting(12, "transformer blocks", low=1)
    heads: int = setting(6, "attention heads, among which the width is divided", low=1)
    mlp_ratio: float = setting(4.0, "hidden width of the MLP relative to the width", low=0.0)
    num_classes: int = setting(1000, "number of classes; the embedding has one more row, for no class", low=0)
    learned_sigma: bool = setting(False, "also predict the variance: twice the output channels")
    positions: Literal["sincos", "rotary"] = setting("sincos", "positional encoding of the tokens")
    qk_norm: bool = setting(False, "RMS-normalise queries and keys, which stabilises training in bfloat16")
    time_scale: float = setting(
        1.0, "time input: time_offset + time_scale * t, with t from 0 for data to about 1000"
    )
    time_offset: float = setting(
        0.0, "see time_scale; 1 with time_scale=-0.001 is the clock of SiT, from noise to data"
    )
    time_frequency_shift: int = setting(
        0,
        "frequency shift of the sinusoidal time embedding: 0 as published, 1 as diffusers' DiT",
        low=0,
        high=1,
    )
    text_width: int = setting(0, "width of text tokens, for cross-attention; 0 for no text", low=0)
    frame_condition: bool = setting(
        False, "condition on given frames: a frame mask and their latents as further input channels"
    )
    frame_levels: bool = setting(
        False, "take a separate noise level for each group of latent frames that share a token"
    )
    two_times: bool = setting(
        False, "also take the time at which a step ends, as objective.kind=mean_flow needs"
    )
    attention: Backend = setting(
        "auto", "attention backend; auto measures once which is fastest on this machine, and the run keeps it"
    )

    def __post_init__(self) -> None:
        if self.preset and self.preset not in self.presets:
            raise UserError("preset", self.preset, f"one of {', '.join(self.presets)}, or ''")
        if self.width % self.heads:
            raise UserError("heads", self.heads, f"a divisor of width={self.width}")
        if self.positions == "sincos" and self.width % 4:
            raise UserError("width", self.width, "a multiple of 4 for sin-cos positions")
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise UserError(
                "heads", self.heads, f"an even width/heads for rotary positions ({self.width}/{self.heads})"
            )
        if int(self.width * self.mlp_ratio) < 1:
            raise UserError("mlp_ratio", self.mlp_ratio, f"at least 1/width = 1/{self.width}")
        if min(self.patch) < 1:
            raise UserError("patch", self.patch, "three sizes of at least 1")
        if self.two_times and self.frame_levels:
            raise UserError("two_times", True, "false with frame_levels")

    @property
    def frames_per_level(self) -> int:
        return self.patch[0] if self.frame_levels else 0

    @property
    def output_channels(self) -> int:
        return output_channels(self)

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        return (self.width,) * self.depth

    def tokens(self, shape: Grid) -> int:
        """Return the tokens of an input (T, H, W); UserError if the patch does not divide it."""
        return math.prod(self.grid(shape))

    def grid(self, shape: Grid) -> Grid:
        """Return the tokens along time, height and width of an input (T, H, W); UserError if not whole."""
        if any(size % patch for size, patch in zip(shape, self.patch, strict=True)):
            raise UserError("patch", self.patch, f"divisors of the input's (T, H, W) = {shape}")
        t, h, w = (size // patch for size, patch in zip(shape, self.patch, strict=True))
        return t, h, w

    def build(self, sequence: SequenceGroup | None = None) -> DiT:
        """Make the network; sequence: the ranks that compute it together."""
        return DiT(self, sequence)

    def attention_heads(self, sequence_ranks: int = 1) -> AttentionHeads:
        """Return what the choice of a backend depends on."""
        in_place = self.positions != "rotary" and not self.qk_norm
        width = self.width // self.heads
        return AttentionHeads(self.heads, width, self.attention, sequence_ranks, in_place)

    def macs_by_part(self, shape: Grid, text_tokens: int = 0) -> dict[str, int]:
        """Count the MACs of one forward pass over one sample (T, H, W), matrix products only.

        adaLN and the time embedding run once a sample and not once a token, and attention grows with the
        square of the tokens; rules of thumb (6 x parameters x tokens) miss both. "Gflops" of
        arXiv:2212.09748 are MACs.
        """
        width, tokens, patch = self.width, self.tokens(shape), math.prod(self.patch)
        levels = self.grid(shape)[0] if self.frame_levels else 1
        per_token = 4 * width**2 + 2 * width * int(width * self.mlp_ratio)
        parts = {
            "matrices of the blocks": self.depth * tokens * per_token,
            "attention": self.depth * 2 * tokens**2 * width,
            "modulation": levels * self.depth * 6 * width**2,
        }
        if self.text_width:
            count = max(text_tokens, 1)  # without text there is still one empty token
            text = 2 * width * (tokens * width + count * self.text_width + tokens * count)
            parts["text"] = self.depth * text
        ends = tokens * patch * width * (self.input_channels + self.output_channels)
        if self.frame_condition:
            ends += tokens * patch * width * (self.input_channels + 1)
        parts["ends"] = ends + levels * (TimeEmbedding.FREQUENCIES * width + 3 * width**2)
        if self.two_times:
            parts["ends"] += TimeEmbedding.FREQUENCIES * width + width**2
        return parts


def _published() -> dict[str, DiTConfig]:
    shapes = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
    base = DiTConfig(learned_sigma=True)
    return {
        f"DiT-{size}/{patch}": replace(base, depth=depth, width=width, heads=heads, patch=(1, patch, patch))
        for size, (depth, width, heads) in shapes.items()
        for patch in (2, 4, 8)
    }


DiTConfig.presets = _published()


class DiT(Denoiser):
    """Predict noise, data, velocity or flow of (B, C, T, H, W) at a time, under a condition.

    Works on every (T, H, W) that the patch divides.
    sequence: the ranks that compute this network together, each on its share of the tokens of equal inputs.
    """

    unweighted = ("attention", "frame_levels")
    functions = ("norm_modulate",)

    def __init__(self, config: DiTConfig, sequence: SequenceGroup | None = None) -> None:
        super().__init__()
        self.norm_modulate = norm_modulate
        self.config, self.sequence = config, sequence
        self.patches = PatchEmbedding(config.input_channels, config.patch, config.width)
        self.time = TimeEmbedding(
            config.width, config.time_scale, config.time_offset, config.time_frequency_shift
        )
        self.length: TimeEmbedding | None = None
        if config.two_times:
            self.length = TimeEmbedding(config.width, config.time_scale, shift=config.time_frequency_shift)
        self.label = LabelEmbedding(config.num_classes, config.width)
        self.frames: PatchEmbedding | None = None
        if config.frame_condition:
            # Further input channels as a second matrix on the same patch: the sum of both is the same layer.
            self.frames = PatchEmbedding(config.input_channels + 1, config.patch, config.width, bias=False)
        self.blocks = nn.ModuleList(self._block() for _ in range(config.depth))
        self.final_modulation = Modulation(config.width, 2)
        self.final = nn.Linear(config.width, math.prod(config.patch) * config.output_channels)
        initialise(self)

    def forward(
        self, x: Tensor, time: Tensor, condition: Condition, hidden: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predict from x: (B, C, T, H, W).  time: (B,) as `path.time_input` gives it.

        With frame_levels time may be (B, T / pt), of each group of frames that share a token; with two_times
        (B, 2), that of x and that at which the step ends. Time (B,) then is a step of no length.
        Returns (B, C or 2C, T, H, W) float32: the prediction, then the variance where it is learned.
        hidden: a block, from 0, whose tokens (B, T', H', W', D) are returned beside it.
        """
        config, dtype = self.config, self.patches.linear.weight.dtype
        grid = config.grid((x.shape[2], x.shape[3], x.shape[4]))
        tokens = self.patches(x.to(dtype))
        if self.frames is not None:
            tokens = tokens + self.frames(frame_channels(x, condition).to(dtype))
        angles = None
        if config.positions == "sincos":
            tokens = tokens + sincos_positions(grid, config.width, x.device).to(dtype)
        else:
            angles = rotary_angles(grid, config.width // config.heads, x.device)
        vector, group = self._vector(time, self.label(labels(x, condition)), grid)
        text = text_tokens(x, condition, config.text_width, dtype) if config.text_width else None
        count = tokens.shape[1]
        if self.sequence is not None:
            tokens = split_tokens(tokens, self.sequence)
            angles = None if angles is None else split_tokens(angles[None], self.sequence)[0]
        shown = tokens
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, vector, angles, text, count, group)
            shown = tokens if number == hidden else shown
        shift, scale = self.final_modulation(vector, group)
        out = self.final(self.norm_modulate(tokens, shift, scale))
        if self.sequence is not None:
            out = gather_tokens(out, count, self.sequence)
        prediction = unpatchify(out, grid, config.patch).float()
        if hidden is None:
            return prediction
        if self.sequence is not None:
            shown = gather_tokens(shown, count, self.sequence)
        return prediction, shown.unflatten(1, grid)

    def _block(self) -> Block:
        config = self.config
        return Block(
            config.width,
            config.heads,
            hidden=int(config.width * config.mlp_ratio),
            qk_norm=config.qk_norm,
            text_width=config.text_width,
            backend=config.attention,
            sequence=self.sequence,
        )

    def _vector(self, time: Tensor, label: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
        """Return what modulates the tokens, (B, D) or (B, G, D), and then the group of frames of each."""
        if self.length is not None:
            return self._of_two_times(self.length, time) + label, None
        if time.ndim == 1:
            return self.time(time) + label, None
        return self.time(time) + label[:, None], self._groups(time, grid)

    def _of_two_times(self, length: TimeEmbedding, time: Tensor) -> Tensor:
        """Embed the time of x and the length of the step from there (B, 2), or of none (B,)."""
        if time.ndim == 1:
            return self.time(time) + length(torch.zeros_like(time))
        return self.time(time[:, 0]) + length(time[:, 0] - time[:, 1])

    def _groups(self, time: Tensor, grid: Grid) -> Tensor:
        """Return the group of frames (N,) of each token, or of this rank's share of them."""
        if not self.config.frame_levels or time.shape[1] != grid[0]:
            expected = (
                f"true, and one for each of {grid[0]} groups of frames, to be told {time.shape[1]} levels"
            )
            raise UserError("frame_levels", self.config.frame_levels, expected)
        group = torch.arange(grid[0], device=time.device).repeat_interleave(grid[1] * grid[2])
        return group if self.sequence is None else split_tokens(group[None], self.sequence)[0]

    def use_attention(self, choices: Mapping[int, Backend]) -> None:
        """Take these backends from now on, as `models.attention.choice.settle` returns them."""
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.choices = choices


def initialise(model: DiT) -> None:
    """Initialise every weight: Xavier for linear layers, N(0, 0.02) for embeddings, zero for gates.

    With adaLN and the output at zero each block is the identity at first (Sec. 3.2, arXiv:2212.09748); text
    and frame inputs start without effect too, so that they can be added to a trained network.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for weight in (model.time.up.weight, model.time.down.weight, model.label.table.weight):
        nn.init.normal_(weight, std=0.02)
    for module in model.modules():
        if isinstance(module, Modulation):
            nn.init.zeros_(module.linear.weight)
        elif isinstance(module, CrossAttention):
            nn.init.zeros_(module.out.weight)
    if model.frames is not None:
        nn.init.zeros_(model.frames.linear.weight)
    if model.length is not None:
        nn.init.normal_(model.length.up.weight, std=0.02)
        nn.init.zeros_(model.length.down.weight)
    nn.init.zeros_(model.final.weight)
    model.label.table.weight.no_decay = True  # type: ignore[attr-defined]
    for name, parameter in model.named_parameters():
        added_by = {"frames": "frame_condition", "length": "two_times"}.get(name.partition(".")[0])
        if ".text." in name or added_by:
            parameter.added_by = added_by or "text_width"  # type: ignore[attr-defined]
    for parameter in model.blocks.parameters():
        parameter.hidden = parameter.ndim == 2  # type: ignore[attr-defined]
