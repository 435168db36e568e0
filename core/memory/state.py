"""Bytes that the state of training takes on a rank, by part: arithmetic, for whoever plans a run.

Sources: the ZeRO paper (arXiv:1910.02054, section 3) for what each stage shares out; DeepSpeed 0.19 and
`core/engine` for the copies that are kept beside. Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass

FP32 = 4
BUCKET = 1 << 26  # numbers that are reduced or gathered at once, as `core.engine.config` asks for
LIVE = 1_000_000_000  # numbers of gathered weights that DeepSpeed's stage 3 keeps for their next use


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What decides the size of the state.

    numbers: trainable numbers of the network.  ranks: that share the state.  zero_stage, bf16, fp32_sums: of
    the engine: ZeRO stage, computing in bfloat16, gradients summed in fp32.  moments, averages: of the
    optimizer and of the weights, fp32 each.  saves: copies for checkpoints that lie in the same memory.
    """

    numbers: int
    ranks: int = 1
    zero_stage: int = 1
    bf16: bool = True
    fp32_sums: bool = True
    moments: int = 2
    averages: int = 1
    saves: int = 0

    def parts(self) -> dict[str, int]:
        """Bytes of each part on one rank, those that are 0 left out."""
        n, stage = self.numbers, self.zero_stage
        computed = 2 if self.bf16 else FP32
        own = -(-n // self.ranks) if stage else n
        summed = FP32 if self.fp32_sums else computed
        shared = min(n, BUCKET) * computed
        if stage == 0:
            weights, gradients, traffic = n * computed * self.bf16, n * FP32, n * computed
        elif stage == 1:
            weights, gradients = n * computed, n * computed + n * summed * self.bf16 * self.fp32_sums
            gradients, traffic = gradients + own * FP32, shared
        else:
            weights = n * computed if stage == 2 else own * computed + min(n, LIVE) * computed
            gradients, traffic = own * summed, 2 * shared
        parts = {
            "weights": weights,
            "masters": own * FP32,
            "gradients": gradients,
            "moments": own * FP32 * self.moments,
            "averages": own * FP32 * self.averages,
            "communication": traffic,
            "copy for checkpoints": own * FP32 * (1 + self.moments + self.averages) * self.saves,
        }
        return {name: size for name, size in parts.items() if size}
