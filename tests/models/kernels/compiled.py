"""Compile every kernel ahead of time for the GPUs that are named by their generation; print the sizes."""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from core import draw_kernels
from models.kernels import adaln

INTEGERS = (
    "tokens",
    "width",
    "sample_stride",
    "token_stride",
    "runs",
    "samples",
    "count",
    "seeds",
    "step_index",
)
FLOATS = ("mean", "inverse", "of_gate", "of_shift", "of_scale")  # pointers to float32


def kinds(kernel: Any, dtype: str, constants: dict[str, Any]) -> dict[str, str]:
    """Return the types of a kernel's arguments."""
    found = {}
    for name in kernel.arg_names:
        if name in constants:
            found[name] = "constexpr"
        elif name in INTEGERS:
            found[name] = "i32"
        elif name == "eps":
            found[name] = "fp32"
        else:
            found[name] = "*fp32" if name in FLOATS else f"*{dtype}"
    return found


CASES: list[tuple[Any, str, dict[str, Any]]] = [
    (adaln.forward_kernel, "bf16", {"GATED": True, "BLOCK": 2048}),
    (adaln.forward_kernel, "fp32", {"GATED": False, "BLOCK": 2048}),
    (adaln.backward_kernel, "bf16", {"GATED": True, "PER_TOKEN": False, "RUN": adaln.RUN, "BLOCK": 2048}),
    (adaln.backward_kernel, "bf16", {"GATED": True, "PER_TOKEN": True, "RUN": adaln.RUN, "BLOCK": 2048}),
    (draw_kernels.start_kernel, "i64", {"BLOCK": draw_kernels.BLOCK}),
    (draw_kernels.draw_kernel, "i64", {"NORMAL": False, "BLOCK": draw_kernels.BLOCK}),
    (draw_kernels.draw_kernel, "i64", {"NORMAL": True, "BLOCK": draw_kernels.BLOCK}),
]

sizes = {}
for generation in map(int, sys.argv[1:]):
    for kernel, dtype, constants in CASES:
        types = kinds(kernel, dtype, constants)
        if constants.get("NORMAL"):
            types["out"] = "*fp32"
        source = ASTSource(kernel, types, {(kernel.arg_names.index(n),): v for n, v in constants.items()})
        made = triton.compile(source, target=GPUTarget("cuda", generation, 32), options=adaln.OPTIONS)
        sizes[f"sm_{generation} {kernel.__name__} {dtype} {constants}"] = len(made.asm["cubin"])
print(json.dumps(sizes))
