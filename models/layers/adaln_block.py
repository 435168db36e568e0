"""A transformer block with adaLN-Zero (DiT, arXiv:2212.09748)."""

from __future__ import annotations

from torch import Tensor, nn

from core.distributed.sequence import SequenceGroup
from models.attention.dispatch import Backend
from models.layers.transformer import (
    CrossAttention,
    Mlp,
    Modulation,
    SelfAttention,
    gated,
    gated_norm_modulate,
    layer_norm,
    norm_modulate,
)


class Block(nn.Module):
    """Self-attention, text if there is any, and MLP, each modulated and gated by the condition.

    hidden: width of the MLP.  text_width: numbers per text token, 0 for no text.  The rest as of
    `SelfAttention`.
    """

    functions = ("norm_modulate", "gated", "gated_norm_modulate")

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden: int,
        qk_norm: bool = False,
        text_width: int = 0,
        backend: Backend = "auto",
        sequence: SequenceGroup | None = None,
    ) -> None:
        super().__init__()
        self.norm_modulate, self.gated = norm_modulate, gated
        self.gated_norm_modulate = gated_norm_modulate
        self.modulation = Modulation(width, 6)
        self.attention = SelfAttention(width, heads, qk_norm=qk_norm, backend=backend, sequence=sequence)
        self.mlp = Mlp(width, hidden)
        self.text: CrossAttention | None = None
        if text_width:
            self.text = CrossAttention(width, heads, text_width, backend=backend)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        angles: Tensor | None = None,
        text: tuple[Tensor, Tensor] | None = None,
        tokens: int = 0,
        group: Tensor | None = None,
    ) -> Tensor:
        """Apply the block to x: (B, N, D), or this rank's share of `tokens` tokens.

        condition: (B, D).  angles: (N, Dh / 2) rotary.  text: tokens (B, L, D_text) and lengths (B,).
        group: (N,) of each token, where the condition is (B, G, D) of groups of frames.
        """
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(condition, group)
        attended = self.attention(self.norm_modulate(x, shift_1, scale_1), angles, tokens)
        if self.text is None or text is None:
            x, normal = self.gated_norm_modulate(x, gate_1, attended, shift_2, scale_2)
        else:
            x = self.gated(x, gate_1, attended)
            x = x + self.text(layer_norm(x), *text)
            normal = self.norm_modulate(x, shift_2, scale_2)
        return self.gated(x, gate_2, self.mlp(normal))
