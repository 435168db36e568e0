"""The layers of transformers: norms, modulation, MLP, self- and cross-attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from core.distributed.sequence import SequenceGroup
from models.attention.by_heads import shared_attention
from models.attention.dispatch import Backend, attention, bucket, unavailable
from models.layers.embeddings import rotate


def layer_norm(x: Tensor) -> Tensor:
    """Normalise the last dimension without learned scale or shift; adaLN gives these."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale x (B, N, D) by 1 + scale and shift it, by vectors (B, 1, D) of samples or (B, N, D) of tokens."""
    return torch.addcmul(shift, x, 1 + scale)


def norm_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise x (B, N, D) and modulate it, as what precedes a layer of a block."""
    return modulate(layer_norm(x), shift, scale)


def gated(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """Add y times its gate to x."""
    return torch.addcmul(x, gate, y)


def gated_norm_modulate(
    x: Tensor, gate: Tensor, y: Tensor, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return x + gate * y, and that normalised and modulated, as between two layers of a block."""
    x = gated(x, gate, y)
    return x, norm_modulate(x, shift, scale)


class Modulation(nn.Module):
    """adaLN: `parts` vectors (B, 1, D) regressed from the condition (B, D) (Sec. 3.2, arXiv:2212.09748).

    Of conditions (B, G, D) of G groups of frames they are (B, N, D), by the group that each token is of.
    """

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def forward(self, condition: Tensor, group: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the vectors.  group: (N,) int64 of the tokens, where the condition is of groups."""
        if group is None:
            return self.linear(F.silu(condition))[:, None].chunk(self.parts, dim=-1)
        return self.linear(F.silu(condition)).index_select(1, group).chunk(self.parts, dim=-1)


def gelu(x: Tensor) -> Tensor:
    """Compute GELU by its tanh approximation (1606.08415): x / 2 * (1 + tanh u), which is x * sigmoid(2 u).

    Compiled, the second form takes a third of the time on a CPU, where a vector of tanh costs four of exp.
    """
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    wide = x.float()
    doubled = math.sqrt(8 / math.pi) * wide * (1 + 0.044715 * wide * wide)
    return (wide * torch.sigmoid(doubled)).to(x.dtype)


class Linear(nn.Linear):
    """nn.Linear that lets the compiler fuse the bias into the next operation, on a CPU.

    Torch's product with a bias copies the bias to every row, then reads and adds it: two more passes.
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and input.device.type == "cpu":
            return _Biased.apply(input, self.weight, self.bias)
        return super().forward(input)


class _Biased(torch.autograd.Function):
    """x W^T + b. Autograd's sum for the bias is over two axes, and makes the compiler write its input in
    float32 besides; this one is over the rows that the products read."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight) + bias

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows = gradients[0].flatten(0, -2)
        return gradients[0] @ weight, rows.t() @ x.flatten(0, -2), rows.sum(0)


class Mlp(nn.Module):
    """Two linear layers around a GELU (tanh approximation)."""

    functions = ("gelu",)

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gelu = gelu
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens, with optional QK-norm and rotary positions.

    QK-norm is an RMSNorm over each head's query and key (arXiv:2302.05442 with RMSNorm for LayerNorm).
    sequence: the ranks that share the tokens, where it is not this one alone.
    choices: the backend for every `bucket` of tokens that has been settled, in place of `backend`.
    """

    functions = ("rotate",)

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qk_norm: bool = False,
        backend: Backend = "auto",
        sequence: SequenceGroup | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.backend, self.sequence, self.rotate = heads, backend, sequence, rotate
        self.choices: Mapping[int, Backend] = {}
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, angles: Tensor | None = None, tokens: int = 0) -> Tensor:
        """Apply to x: (B, N, D), or this rank's share of `tokens` tokens.  angles: (N, Dh / 2) or None."""
        heads = rearrange(self.qkv(x), "b n (three k d) -> three b n k d", three=3, k=self.heads)
        query, key, value = heads.unbind()  # compiled, its gradient is written once; that of indexing thrice
        query, key = self.query_norm(query), self.key_norm(key)
        if angles is not None:
            query, key = self.rotate(query, angles), self.rotate(key, angles)
        backend = self.choices.get(bucket(tokens or x.shape[1]), self.backend)
        if self.sequence is None:
            out = attention(query, key, value, backend=backend)
        else:
            out = shared_attention(query, key, value, tokens, self.sequence, backend)
        return self.out(rearrange(out, "b n k d -> b n (k d)"))


class CrossAttention(nn.Module):
    """Attention of tokens (B, N, D) to text (B, L, text_width), of which `lengths` (B,) tokens are valid."""

    def __init__(self, width: int, heads: int, text_width: int, *, backend: Backend = "auto") -> None:
        super().__init__()
        self.heads, self.backend = heads, backend
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(text_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, lengths: Tensor) -> Tensor:
        query = rearrange(self.query(x), "b n (k d) -> b n k d", k=self.heads)
        key, value = rearrange(self.key_value(text), "b l (two k d) -> two b l k d", two=2, k=self.heads)
        # A backend named for self-attention may know no key lengths; text then takes the automatic one.
        backend = "auto" if unavailable(self.backend, x.device.type, masked=True) else self.backend
        out = attention(query, key, value, backend=backend, lengths=lengths)
        return self.out(rearrange(out, "b n k d -> b n (k d)"))
