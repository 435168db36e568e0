"""Compile every kernel ahead of time for the GPUs that are named by their generation; print the sizes."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from core.kernels import draw_kernels, mixing_kernel
from models.kernels import adaln

INTEGERS = {
    *("tokens", "width", "sample_stride", "token_stride", "runs"),
    *("samples", "count", "seeds", "step_index"),
    *("channels", "frames", "plane", "unit"),
}
POINTERS = {  # to other numbers than a kernel's own
    "fp32": {
        *("mean", "inverse", "of_gate", "of_shift", "of_scale"),
        *("std", "levels", "frame_mask", "still", "target", "x0", "drawn"),
    },
    "bf16": {"x_t", "frame_latents"},
    "i64": {"posterior", "noise"},
    "i1": {"is_picture"},
}


def kinds(kernel: Any, dtype: str, constants: dict[str, Any]) -> dict[str, str]:
    """Return the types of a kernel's arguments."""
    known = {name: f"*{kind}" for kind, names in POINTERS.items() for name in names}
    known |= dict.fromkeys(INTEGERS, "i32") | {"eps": "fp32"} | dict.fromkeys(constants, "constexpr")
    if constants.get("NORMAL"):
        known["out"] = "*fp32"
    return {name: known.get(name, f"*{dtype}") for name in kernel.arg_names}


def mixing(*switches: str) -> dict[str, Any]:
    names = ("DRAWN", "OF_FRAMES", "LEVELS", "MASKED", "STILL", "ALL")
    return {name: name in switches for name in names} | {"BLOCK": draw_kernels.BLOCK}


CASES: list[tuple[Any, str, dict[str, Any]]] = [
    (adaln.forward_kernel, "bf16", {"GATED": True, "BLOCK": 2048}),
    (adaln.forward_kernel, "fp32", {"GATED": False, "BLOCK": 2048}),
    (adaln.backward_kernel, "bf16", {"GATED": True, "PER_TOKEN": False, "RUN": adaln.RUN, "BLOCK": 2048}),
    (adaln.backward_kernel, "bf16", {"GATED": True, "PER_TOKEN": True, "RUN": adaln.RUN, "BLOCK": 2048}),
    (draw_kernels.start_kernel, "i64", {"BLOCK": draw_kernels.BLOCK}),
    (draw_kernels.draw_kernel, "i64", {"NORMAL": False, "BLOCK": draw_kernels.BLOCK}),
    (draw_kernels.draw_kernel, "i64", {"NORMAL": True, "BLOCK": draw_kernels.BLOCK}),
    (mixing_kernel.mixing_kernel, "fp16", mixing("DRAWN")),
    # Triton compiles a number that is 1 into the kernel: one seed, pictures of one frame.
    (draw_kernels.start_kernel, "i64", {"seeds": 1, "BLOCK": draw_kernels.BLOCK}),
    (mixing_kernel.mixing_kernel, "fp16", {"frames": 1, "unit": 1, **mixing("DRAWN")}),
    (mixing_kernel.mixing_kernel, "fp32", mixing("OF_FRAMES", "LEVELS", "MASKED", "STILL", "ALL")),
]

sizes = {}
for generation in map(int, sys.argv[1:]):
    for kernel, dtype, constants in CASES:
        types = kinds(kernel, dtype, constants)
        source = ASTSource(kernel, types, {(kernel.arg_names.index(n),): v for n, v in constants.items()})
        made = triton.compile(source, target=GPUTarget("cuda", generation, 32), options=adaln.OPTIONS)
        sizes[f"sm_{generation} {kernel.__name__} {dtype} {constants}"] = len(made.asm["cubin"])
print(json.dumps(sizes))
