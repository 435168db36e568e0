"""Bytes that the state of training takes on a rank, by part: arithmetic, for whoever plans a run.

Sources: the ZeRO paper (arXiv:1910.02054, section 3) for what each stage shares out; DeepSpeed 0.19 and
`core/engine` for paddings, buckets and the copies that are kept beside. A test holds the state to the bytes
of real engines, and the peaks of passes and of updates to a band. Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FP32 = 4
BUCKET = 1 << 26  # most numbers that are reduced or gathered at once, as `core.engine.config` asks for
SMALLEST_BUCKET = 1 << 20  # what a bucket has for a small network too
ALIGNED = 2  # numbers, of each rank's part: DeepSpeed pads the flat tensors of stages 1 and 2 to it
LIVE = 1_000_000_000  # numbers of gathered weights that DeepSpeed's stage 3 keeps for their next use
NORM_ROW = 128  # numbers of which stage 0 keeps a sum of squares


def bucket_numbers(numbers: int) -> int:
    """Return how many numbers of a network are reduced or gathered at once."""
    return max(SMALLEST_BUCKET, min(numbers, BUCKET))


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that one rule updates, as the optimizer groups them.

    is_muon: whether it is Muon, which keeps one moment, not AdamW's two.
    blocks: of each parameter the block that it is part of, "" for none; empty where that does not matter.
    """

    shapes: Sequence[tuple[int, ...]]
    is_muon: bool = False
    blocks: Sequence[str] = ()

    @property
    def numbers(self) -> int:
        """Numbers of all its parameters."""
        return sum(map(math.prod, self.shapes))

    @property
    def moments(self) -> int:
        """How many moments each number has."""
        return 1 if self.is_muon else 2

    def pieces(self, zero_stage: int, ranks: int) -> list[tuple[int, int]]:
        """Return the flat tensors that ranks share out: their numbers, and each rank's part with padding.

        Stages 1 and 2 cut the whole group, stage 3 each parameter; at stage 0 every rank has all.
        """
        if zero_stage == 0:
            return [(self.numbers, self.numbers)]
        if zero_stage == 3:
            return [(size, -(-size // ranks)) for size in map(math.prod, self.shapes)]
        return [(self.numbers, ALIGNED * -(-self.numbers // (ALIGNED * ranks)))]

    def own(self, zero_stage: int, ranks: int) -> int:
        """Return how many numbers of the fp32 masters a rank holds, with padding."""
        return sum(part for _, part in self.pieces(zero_stage, ranks))

    def rows(self, ranks: int) -> list[tuple[int, int]]:
        """Return `pieces` of parameters that are cut by rows, as FSDP2 does."""
        sizes = [(math.prod(shape), shape[0]) for shape in self.shapes]
        return [(size, -(-rows // ranks) * (size // rows)) for size, rows in sizes]


def checkpoint_bytes(groups: Sequence[ParameterGroup], averages: int) -> int:
    """Return the size of a checkpoint: weights, their moments and the averages, in fp32."""
    return FP32 * sum(group.numbers * (1 + group.moments + averages) for group in groups)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """The inputs that determine the size of the state of training.

    groups: the trainable parameters.  fixed: numbers that are not trained.  ranks: that share the state.
    zero_stage, bf16, fp32_sums: of the engine: ZeRO stage, computing in bfloat16, gradients summed in fp32.
    replicas: copies of the state, of which `ranks` share each one.
    fp32_reduced: whether ranks add up gradients of bfloat16 in fp32.
    averages: of the weights, fp32 each.  saves: copies for checkpoints that lie in the same memory.
    """

    groups: Sequence[ParameterGroup]
    fixed: int = 0
    ranks: int = 1
    replicas: int = 1
    zero_stage: int = 1
    bf16: bool = True
    fp32_sums: bool = True
    fp32_reduced: bool = False
    averages: int = 1
    saves: int = 0

    @property
    def numbers(self) -> int:
        """Trainable numbers of the network."""
        return sum(group.numbers for group in self.groups)

    @property
    def own(self) -> int:
        """Numbers of this rank's masters."""
        return sum(map(self._own, self.groups))

    def parts(self) -> dict[str, int]:
        """Bytes of each part on one rank in a forward and backward pass, those that are 0 left out."""
        moments = sum(self._own(group) * group.moments for group in self.groups)
        writers = self.ranks * self.replicas
        saved = sum(-(-g.numbers // writers) * (1 + g.moments + self.averages) for g in self.groups)
        parts = {
            "weights": self._weights(),
            "masters": self.own * FP32,
            "gradients": self._gradients(),
            "moments": moments * FP32,
            "averages": self.own * FP32 * self.averages,
            "communication": self._traffic(),
            "copy for checkpoints": saved * FP32 * self.saves,
        }
        return {name: size for name, size in parts.items() if size}

    def update_excess(self) -> int:
        """Bytes that an update takes beyond what `parts` has for passes; these have activations instead.

        So a rank takes the sum of the parts, and the larger one of activations and this.
        """
        return max(0, self._update() - self._gradients() - self._traffic() - self._gathered())

    def _own(self, group: ParameterGroup) -> int:
        """Numbers of this rank's masters of a group."""
        return group.own(self.zero_stage, self.ranks)

    @property
    def _computed(self) -> int:
        """Bytes of a number that the network computes with."""
        return 2 if self.bf16 else FP32

    @property
    def _summed(self) -> int:
        """Bytes of a number of the gradient that stages 2 and 3 keep."""
        return FP32 if self.fp32_sums else self._computed

    def _weights(self) -> int:
        if self.zero_stage == 0:
            return self.bf16 * self.numbers * self._computed + self.fixed * self._computed
        held = self.own * (1 if self.zero_stage == 3 else self.ranks)
        return (held + self.fixed) * self._computed + self._gathered()

    def _gathered(self) -> int:
        """Bytes of weights that stage 3 has whole during passes."""
        return min(self.numbers, LIVE) * self._computed if self.zero_stage == 3 else 0

    def _gradients(self) -> int:
        """Bytes of gradients between two micro-batches: flat, or of stage 1 one by one and their sums."""
        if self.zero_stage == 0:
            return self.numbers * FP32
        if self.zero_stage == 1:
            sums = FP32 if self.bf16 and self.fp32_sums else 0
            return self.numbers * (self._computed + sums)
        return self.own * self._summed

    def _traffic(self) -> int:
        """Bytes of the bucket, and at stages 2 and 3 of the gradients that wait until it is full."""
        if self.zero_stage == 0:
            return 0
        waiting = 0
        if self.zero_stage > 1:
            waiting = min(self.numbers, BUCKET) * self._computed
        if self.zero_stage == 2 and self._summed > self._computed:
            waiting += FP32 * max(self._largest_part(group) for group in self.groups)
        if self.fp32_reduced and self.bf16:
            waiting += bucket_numbers(self.numbers) * FP32  # the bucket once more, as it is sent
        return bucket_numbers(self.numbers) * self._computed + waiting

    def _largest_part(self, group: ParameterGroup) -> int:
        """Numbers of a parameter that a rank holds of the largest: no more than it holds of the group."""
        return min(max(map(math.prod, group.shapes)), self._own(group))

    def _update(self) -> int:
        """Bytes of gradients and of what the update of the largest group takes beside its masters."""
        if self.zero_stage == 0:
            norm = 2 * FP32 * self.numbers // NORM_ROW
            return self.numbers * FP32 + max(norm, *(self._muon(group) for group in self.groups))
        kept = self.numbers * self._computed if self.zero_stage == 1 else self.own * self._summed
        buffer = bucket_numbers(self.numbers) * self._computed if self.zero_stage == 3 else 0
        return kept + buffer + max(self._copied(group) for group in self.groups)

    def _copied(self, group: ParameterGroup) -> int:
        """Bytes of a group's flat gradient in fp32, which stage 2 keeps already where it sums in fp32."""
        own = self._own(group)
        is_flat = self.zero_stage == 2 and self.bf16 and self.fp32_sums
        flat = 0 if is_flat else own * FP32
        rounded = own * self._computed if self.zero_stage == 1 and self.bf16 else 0  # before it is converted
        return max(flat + rounded, flat + self._muon(group))

    def _muon(self, group: ParameterGroup) -> int:
        """Bytes that Muon takes to make a group's matrices orthogonal; 0 of another group.

        They are blended with the momentum in fp32, and sent to their owners. An owner has all of its matrices
        twice, and of the one it works on two products of its shape and two of the smaller square.
        """
        if not group.is_muon:
            return 0
        width, own = self._computed, self._own(group)
        sizes = [math.prod(shape) for shape in group.shapes]
        largest = max(2 * math.prod(s) + 2 * min(s[0], math.prod(s[1:])) ** 2 for s in group.shapes)
        if self.zero_stage == 0 or self.ranks == 1:
            return own * FP32 + width * (self.bf16 * own + group.numbers + largest)
        return own * FP32 + width * (own + 2 * _fullest(sizes, self.ranks) + largest)


def _fullest(sizes: Sequence[int], ranks: int) -> int:
    """Return the numbers of the owner with most of the matrices: the largest go first, to who has least."""
    owners = [0] * ranks
    for size in sorted(sizes, reverse=True):
        owners[owners.index(min(owners))] += size
    return max(owners)
