"""The precision of networks outside of training: a stated policy, equal to fp32 within TOLERANCE.

fp32: all in float32, products and convolutions exactly so.  tf32: the same numbers, of whose factors a GPU's
products and convolutions take 10 bits after the point; the CPU has no such thing, and computes as fp32.
bf16: a network's weights and activations in bfloat16, and beside it tf32.

`auto` is fast on CUDA and fp32 elsewhere. Denoisers sample in bf16 there, as they were trained; states of a
sampler stay in float32. Autoencoders and text encoders, whose results are stored in float16, take tf32.
Scores are always made in fp32, since published ones were. Validation computes as training does
(`engine.precision`). A job records what `auto` was, and goes on with that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import dtype

Precision = Literal["fp32", "tf32", "bf16"]
AskedPrecision = Literal["auto", "fp32", "tf32", "bf16"]

TOLERANCE = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
"""Largest |found - fp32| / |fp32| of a network's answer, of one evaluation."""

BATCH_TOLERANCE = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
"""Largest |found - other| / |other| of the latents of a sample that is made in batches of other sizes.

On the demo's run, 10 steps with guidance 2 on a CPU: batches of 1, 3 and 64 differ by 4e-7 in fp32 and not at
all in bf16, which differs from fp32 by 8e-3.
"""


def settle_precision(asked: AskedPrecision, device_type: str, fast: Precision) -> Precision:
    """Return what `auto` is on this kind of device.  fast: on CUDA."""
    if asked != "auto":
        return asked
    return fast if device_type == "cuda" else "fp32"


def compute_in(precision: Precision) -> None:
    """Have this process compute what stays in float32 on GPUs exactly so, or by TF32."""
    import torch

    rounded = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = rounded
    torch.backends.cudnn.allow_tf32 = rounded


def compute_repeatably(precision: Precision) -> dtype:
    """Have equal work of this process give equal bytes; return the type of a network's weights."""
    choose_alike()
    compute_in(precision)
    return number_type(precision)


def choose_alike() -> None:
    """Have cuDNN choose by shapes alone, among algorithms that repeat their sums: alike in every process."""
    import torch

    torch.backends.cudnn.benchmark = False  # its choice may differ from run to run
    torch.backends.cudnn.deterministic = True


def work_alike(threads: int) -> None:
    """Have workers that see the same samples give the same numbers.  threads: of the CPU."""
    import torch

    torch.set_num_threads(threads)
    choose_alike()


def number_type(precision: Precision) -> dtype:
    """Return the type of a network's weights and activations."""
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32
