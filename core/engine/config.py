"""The engine's settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from core.config.settings import setting
from core.distributed.ranks import TIMEOUT_S
from core.errors import UserError

Policy = Literal["none", "selective", "every_k", "full"]  # of activation checkpointing
FP32_RANKS = 64  # from which on gradients are added up in fp32


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the training state is spread over ranks, and in which precision the network computes."""

    kind: Literal["deepspeed", "fsdp2"] = setting(
        "deepspeed",
        "library that shards, reduces and updates: DeepSpeed at ZeRO stages 0 to 3, or PyTorch's FSDP2 at"
        " stages 2 and 3",
        role="work",
    )
    zero_stage: int | Literal["auto"] = setting(
        1,
        "what is sharded over ranks: 0 nothing, 1 optimizer state, 2 also gradients, 3 also weights; "
        "auto: 0 for one rank, else the lowest stage that fits; kept when the run continues",
        low=0,
        high=3,
        role="work",
    )
    shard_ranks: int = setting(
        0,
        "fsdp2: number of neighbouring ranks that share one copy of the state; 0 = the ranks of a node, with "
        "zero_stage=auto of as many nodes as the state needs to fit; kept when the run continues",
        unit="ranks",
        low=0,
        role="work",
    )
    reduce: Literal["each", "last"] = setting(
        "each",
        "fsdp2: after which micro-steps ranks reduce gradients; last: once a step, for a whole fp32 "
        "gradient on every rank",
        role="work",
    )
    precision: Literal["bf16", "fp32"] = setting(
        "bf16", "number format in which the network computes; master weights are fp32"
    )
    matmul: Literal["bf16", "fp8", "mxfp8"] = setting(
        "bf16",
        "fp8: multiply in 8 bits in the blocks' linear layers, on GPUs that support it; needs "
        "precision=bf16 and compiled blocks; mxfp8: with a scale per 32 numbers, on Blackwell, by torchao"
        " (the extra mxfp8)",
    )
    gradient_clipping: float = setting(1.0, "largest gradient norm; 0 = no clipping", low=0.0)
    gradient_dtype: Literal["fp32", "bf16"] = setting(
        "fp32", "number format in which gradients are accumulated over micro-steps"
    )
    reduce_dtype: Literal["auto", "bf16", "fp32"] = setting(
        "auto",
        "number format in which ranks reduce gradients under DeepSpeed's stages 1 to 3, elsewhere always "
        "fp32; auto: the network's, from 64 ranks on fp32; kept when the run continues",
        role="work",
    )
    micro_batch: int | Literal["auto"] = setting(
        "auto",
        "most samples that a rank processes at once; 0 = its whole share of a group; auto: for each shape"
        " the most that fit, extrapolated from the memory measured for one and two samples; kept when the"
        " run continues",
        unit="samples",
        low=0,
        role="work",
    )
    sequence_parallel: int = setting(
        1,
        "number of ranks that share the tokens of each sample, for videos too long for one",
        unit="ranks",
        low=1,
        role="work",
    )
    activation_checkpointing: Policy = setting(
        "none",
        "what the backward pass recomputes instead of storing: none; selective: all of a block except "
        "matmuls and attention; every_k: every k-th block; full: every block",
        role="work",
    )
    checkpoint_every: int = setting(
        2, "every_k: recompute one block in this many", unit="blocks", low=2, role="work"
    )
    compile: bool | Literal["auto"] = setting(
        "auto",
        "compile the network's blocks (at ZeRO stage 3 of DeepSpeed their functions without weights) for "
        "every shape before the first step; auto: on CUDA, where a C compiler and Triton are available; "
        "kept when the run continues",
        role="work",
    )
    kernels: Literal["torch", "draws", "triton"] = setting(
        "torch",
        "draws: draws and noising by kernels of this project, on CUDA (the extra kernels); triton: adaLN "
        "too, in the place of compiled blocks; not said to be faster until a device check says so",
        role="work",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to compute", role="work")
    timeout_s: float = setting(
        TIMEOUT_S, "time limit of a collective operation", unit="s", low=1.0, role="work"
    )

    def __post_init__(self) -> None:
        if self.matmul != "bf16" and self.precision == "fp32":
            raise UserError("matmul", self.matmul, "bf16 with precision=fp32, or precision=bf16")
        self._require_kind()

    def _require_kind(self) -> None:
        """Raise UserError where the kind of engine cannot do what another setting asks for."""
        if self.kind == "deepspeed":
            for name, value, usual in (("shard_ranks", self.shard_ranks, 0), ("reduce", self.reduce, "each")):
                if value != usual:
                    raise UserError(name, value, f"{usual} with kind=deepspeed, or kind=fsdp2")
            return
        if self.zero_stage in (0, 1):
            raise UserError("zero_stage", self.zero_stage, "2, 3 or auto with kind=fsdp2")
        for name in ("gradient_dtype", "reduce_dtype"):
            if getattr(self, name) == "bf16":
                raise UserError(name, "bf16", "fp32 with kind=fsdp2")

    @property
    def stages(self) -> tuple[int, ...]:
        """ZeRO stages that the kind of engine has."""
        return (2, 3) if self.kind == "fsdp2" else (0, 1, 2, 3)

    @property
    def compiles(self) -> Literal["", "functions", "blocks"]:
        """Return what of the network is compiled; `auto` is settled before anything is built.

        At ZeRO stage 3 DeepSpeed's hooks, which gather weights, would break a block's graph at every layer.
        """
        assert self.compile != "auto"
        return "" if not self.compile else "functions" if self.frees_in_block else "blocks"

    def reduces_in_fp32(self, ranks: int) -> bool:
        """Return whether so many ranks add up gradients in fp32.

        A sum in bf16 of N ranks is rounded N - 1 times, to 8 bits: from FP32_RANKS on that is no small noise.
        """
        asked = self.reduce_dtype
        return not self.may_reduce_in_bf16 or asked == "fp32" or (asked == "auto" and ranks >= FP32_RANKS)

    @property
    def may_reduce_in_bf16(self) -> bool:
        """Return whether gradients are bfloat16 when ranks add them up, and can stay so."""
        return self.kind == "deepspeed" and self.precision == "bf16" and self.zero_stage != 0

    def copy_ranks(self, ranks: int, on_node: int) -> int:
        """Return how many ranks share one copy of the state under fsdp2; on_node: those of a node.

        UserError where `shard_ranks` does not divide the ranks. Where those of a node do not, all share it.
        """
        asked = self.shard_ranks
        if asked and ranks % asked:
            raise UserError("shard_ranks", asked, f"a divisor of the number of ranks, {ranks}")
        return asked or (on_node if ranks % on_node == 0 else ranks)

    def by_copies(self, ranks: int, on_node: int) -> list[EngineConfig]:
        """Return what `auto` may choose among: itself, and under fsdp2 with more ranks to share one copy.

        In the order of what is sent between nodes. Where `shard_ranks` or a stage is asked for, it is itself
        alone.
        """
        if self.kind != "fsdp2" or self.shard_ranks or self.zero_stage != "auto":
            return [self]
        usual = self.copy_ranks(ranks, on_node)
        wider = [copy for copy in range(2 * usual, ranks + 1, usual) if ranks % copy == 0]
        return [self, *(replace(self, shard_ranks=copy) for copy in wider)]

    @property
    def stage(self) -> int:
        """The ZeRO stage, which is known: `auto` is settled before anything is built."""
        assert self.zero_stage != "auto"
        return self.zero_stage

    @property
    def most_at_once(self) -> int:
        """Most samples that a rank takes at once as far as the configuration says so; 0 is any number."""
        return 0 if self.micro_batch == "auto" else self.micro_batch

    @property
    def meets_in_forward(self) -> bool:
        """Return whether ranks wait for one another within a forward pass: for weights, or for tokens."""
        return self.kind == "fsdp2" or self.stage == 3 or self.sequence_parallel > 1

    @property
    def frees_in_block(self) -> bool:
        """Return whether weights are freed where a block's last layer ends, and not after the block."""
        return self.kind == "deepspeed" and self.zero_stage == 3  # `auto` only counts, and is no stage

    @property
    def sums_micro_steps(self) -> bool:
        """Return whether the engine adds up gradients in fp32 (stages 0, 2 and 3 do it on their own)."""
        return self.stage == 1 and self.precision == "bf16" and self.gradient_dtype == "fp32"
