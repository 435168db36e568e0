"""Self-attention among tokens that several ranks share: by heads (all-to-all) or by a ring of keys.

By heads, each rank attends to everything with its share of the heads, through whatever backend is fastest:
two all-to-alls. It needs the group's size to divide the heads. Otherwise keys and values travel around
(`by_ring.py`), which moves more; there only kernels serve that tell the log-sum-exp of their scores.
"""

from __future__ import annotations

from torch import Tensor

from core.distributed.sequence import SequenceGroup, heads_to_tokens, tokens_to_heads
from models.attention.by_ring import RING_BACKENDS, ring_attention
from models.attention.dispatch import Backend, attention, unavailable


def by_ring(heads: int, size: int) -> bool:
    """Return whether a group of `size` ranks shares so many heads by a ring."""
    return heads % size > 0


def shared_attention(
    query: Tensor, key: Tensor, value: Tensor, tokens: int, sequence: SequenceGroup, backend: Backend = "auto"
) -> Tensor:
    """Compute attention of this rank's queries to all `tokens` tokens of the group (collective: the group).

    query, key, value: (B, N / size, K, Dh), this rank's share, padded.
    Returns the same shape; its content at padding is arbitrary, and nothing attends to padding.
    """
    if by_ring(query.shape[2], sequence.size):
        # One named for whole samples may tell no log-sum-exp; a ring then takes the automatic one.
        if backend not in RING_BACKENDS or unavailable(backend, query.device.type):
            backend = "auto"
        return ring_attention(query, key, value, tokens, sequence, backend)
    heads = tokens_to_heads((query, key, value), tokens, sequence)
    return heads_to_tokens(attention(*heads.unbind(), backend=backend), sequence)
