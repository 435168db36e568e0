"""The interface of any denoising network for trainer, sampler and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from core.batch import Condition
from core.distributed.sequence import SequenceGroup
from models.attention.choice import AttentionHeads
from models.attention.dispatch import Backend
from models.layers.embeddings import Grid
from models.weights import count_numbers

Example = tuple[Tensor, Tensor, Condition]
"""What a network is called with: x, time, condition."""


class Denoiser(nn.Module):
    """A network that predicts noise, data, velocity or flow of (B, C, T, H, W) at a time, under a condition.

    Called with x (B, C, T, H, W), time (B,) as `path.time_input` gives it, or (B, 2) where it is told two
    times, and a `Condition`, it returns
    (B, C or 2C, T, H, W) float32: the prediction, then the variance where it is learned. One whose
    configuration has `hidden_widths` takes `hidden` too, the number of a block from 0, and then returns a
    pair: the same, and that block's tokens (B, T', H', W', D) in its grid of tokens. It computes in the
    dtype of its weights, draws them from torch's global generator, and ignores parts of the condition that it
    is not made for.
    Parameters may be tagged: `no_decay`, for the optimizer, `hidden`, which Muon may take, and
    `added_by`, `classes` and `places`, which say how this network may differ from one whose weights it begins
    from (`models.transfer`); without these it begins from an equal one alone.

    unweighted: fields of its configuration on which no weight depends.
    blocks: the parts that make up nearly all of its work, at least one. Each is wrapped by itself to be
    compiled, to be computed again in the backward pass, or to multiply in fp8.
    """

    unweighted: ClassVar[tuple[str, ...]] = ()
    blocks: nn.ModuleList

    def use_attention(self, choices: Mapping[int, Backend]) -> None:
        """Take these backends from now on, as `models.attention.choice.settle` returns them.

        For networks whose config names `attention_heads`; without these nothing is settled.
        """


class DenoiserConfig(Protocol):
    """The configuration of a network: a frozen dataclass, and what is known before the network is built.

    kind: its name in `models.denoisers.kinds`, a field of the dataclass, and its first.
    input_channels: those of the latents.  learned_sigma: whether it gives twice as many.
    num_classes, text_width, frame_condition: its conditioning: the number of classes, the width of text
    tokens, whether frames are given; 0 or False for none.
    frames_per_level: latent frames of which the network is told one level of noise, by time (B, T / that
    many); 0 for a network of one level, by time (B,).
    two_times: whether it is also told at which time a step ends, by time (B, 2).
    hidden_widths: numbers of a token behind each block, for a network that shows them; () for one that does
    not.
    """

    @property
    def kind(self) -> str: ...
    @property
    def input_channels(self) -> int: ...
    @property
    def learned_sigma(self) -> bool: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def text_width(self) -> int: ...
    @property
    def frame_condition(self) -> bool: ...
    @property
    def frames_per_level(self) -> int: ...
    @property
    def two_times(self) -> bool: ...
    @property
    def hidden_widths(self) -> tuple[int, ...]: ...

    def build(self, sequence: SequenceGroup | None = None) -> Denoiser:
        """Make the network, with weights from torch's global generator.

        sequence: the ranks that compute it together, each on its share of the tokens; only given to kinds
        with `attention_heads`.
        """
        ...

    def tokens(self, shape: Grid) -> int:
        """Count the tokens of an input (T, H, W), or what its work otherwise grows with.

        UserError, naming the field from `model.` on, for a shape that the network cannot take.
        """
        ...

    def macs_by_part(self, shape: Grid, text_tokens: int = 0) -> dict[str, int]:
        """Count the multiply-accumulates of a forward pass over one sample (T, H, W), exactly, by part."""
        ...

    def attention_heads(self, sequence_ranks: int = 1) -> AttentionHeads | None:
        """Return what the choice of a backend depends on; None for a network without self-attention.

        sequence_ranks: ranks that share the tokens of an input, which only a network with self-attention can.
        """
        ...


def count_parameters(config: DenoiserConfig) -> int:
    """Count the trainable parameters of a configuration, without allocating them."""
    return count_numbers(config.build)


def forward_macs(config: DenoiserConfig, shape: Grid, text_tokens: int = 0) -> int:
    """Count the multiply-accumulates of a forward pass over one sample (T, H, W)."""
    return sum(config.macs_by_part(shape, text_tokens).values())


def train_flops(config: DenoiserConfig, shape: Grid, text_tokens: int = 0, *, passes: int = 3) -> int:
    """Count the FLOPs of training on one sample: 2 per MAC.

    passes: of the objective, its arithmetic in forward passes (`ObjectiveConfig.passes`); 3 is a forward pass
    and its backward pass, which is twice as much.
    """
    return 2 * passes * forward_macs(config, shape, text_tokens)


def output_channels(config: DenoiserConfig) -> int:
    """Return the channels of the network's output."""
    return config.input_channels * (2 if config.learned_sigma else 1)


def example_inputs(
    config: DenoiserConfig, shape: tuple[int, ...], device: torch.device, text_tokens: int = 0
) -> Example:
    """Return the inputs of a training step for a micro-batch (b, C, T, H, W), with zeros for values.

    text_tokens: the length to which captions are padded, for a network that takes text.
    """
    batch, frames = shape[0], shape[2]
    label, x = torch.zeros(batch, dtype=torch.int64, device=device), torch.zeros(shape, device=device)
    text = length = mask = latents = None
    if config.text_width:
        text = torch.zeros((batch, text_tokens, config.text_width), dtype=torch.float16, device=device)
        length = torch.zeros_like(label)
    time = label.float()
    if (unit := config.frames_per_level) > 0:
        time = torch.zeros((batch, frames // unit), device=device)
    elif config.two_times:
        time = torch.zeros((batch, 2), device=device)
    if config.frame_condition or unit:
        mask, latents = torch.zeros((batch, frames), device=device), torch.zeros_like(x)
    return x, time, Condition(label, text, length, mask, latents)
