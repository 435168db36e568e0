"""Measure a forward and backward pass of the denoiser, beside plain and public ones and its matrix products.

On a CPU the network is DiT-S/2, batch 4, 256 tokens; on a CUDA device DiT-XL/2, and blocks of a video model.
Every way gets the same inputs; ours and its plain twin also the same weights, so their results are compared.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.batch import Condition
from core.engine.compiling import compile_blocks
from core.errors import UserError, WorkError
from core.memory.counting import live_bytes
from core.memory.free import USABLE
from core.metrics import hardware
from models.attention.choice import settle
from models.denoisers.dit import DiT, DiTConfig
from models.denoisers.network import count_parameters, train_flops
from tools.bench import public_dits
from tools.bench.job import Config
from tools.bench.plain_dit import PlainDiT
from tools.bench.rounds import Floor, Row, Way, measure

NETWORKS = 6  # that lie on the device at once: plain, ours, its compiled copy, public ones
Image = tuple[int, int, int, int]
EXACT = 1e-4  # largest relative error of output and gradients in float32
ROUNDED = 0.03  # the same in bfloat16, whose numbers have 8 bits

FP32 = "plain, float32"
AUTOCAST = "plain, bf16 autocast, SDPA"
PRODUCTS = "matmuls alone, bf16"


@dataclass(frozen=True)
class Case:
    """A network and the shape (B, C, T, H, W) of its input."""

    name: str
    network: DiTConfig
    shape: tuple[int, int, int, int, int]


Result = tuple[Tensor, Sequence[Tensor]]
Run = Callable[[], Result]
"""One forward and backward pass: the output and the gradients."""


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure one row for each case that is for this device."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return [_row(config, case, device, folder) for case in cases(config, device)]


def cases(config: Config, device: torch.device) -> list[Case]:
    """Return the networks that are measured on this kind of device."""
    if config.network not in ("", *DiTConfig.presets):
        raise UserError("network", config.network, f"one of {', '.join(DiTConfig.presets)}, or ''")
    name = config.network or ("DiT-XL/2" if device.type == "cuda" else "DiT-S/2")
    network = replace(DiTConfig.presets[name], preset=name)
    wanted: list[tuple[str, DiTConfig, Image, int]] = [(f"{name} at 256 px", network, (4, 1, 32, 32), 256)]
    if device.type == "cuda" and not config.network:
        video = DiTConfig(width=2048, depth=4, heads=16)
        wanted.append(("4 blocks of width 2048, 8192 tokens", video, (4, 8, 64, 64), 2))
    found = []
    for what, model, shape, most in wanted:
        batch = config.batch or 4
        if device.type == "cuda" and not (config.batch and model is network):
            batch = fitting(model, shape, torch.cuda.mem_get_info(device)[0], most)
        found.append(Case(f"{what}, batch {batch}", model, (batch, *shape)))
    return found


def fitting(network: DiTConfig, shape: Image, free: int, most: int) -> int:
    """Return the largest power of two of samples (C, T, H, W) that every way has room for, at most `most`.

    The plain network in float32 keeps most, all scores of attention among it; its activations are counted
    over shapes alone. Beside them lie the weights of NETWORKS networks and the gradients of two passes.
    """

    def plain(count: int) -> tuple[nn.Module, Callable[[], Tensor]]:
        x, label = torch.zeros(count, *shape), torch.zeros(count, dtype=torch.int64)
        model = PlainDiT(network)
        return model, lambda: model(x, torch.zeros(count), label).square().mean()

    known: Any = {"dtype": torch.float32, "device": torch.device("cpu"), "fake": True}
    peaks = [max(live_bytes(partial(plain, count), **known)) for count in (1, 2)]
    each = peaks[1] - peaks[0]
    room = int(USABLE * free) - 4 * (NETWORKS + 2) * count_parameters(network) - (peaks[0] - each)
    return min(most, 1 << max(0, (room // each).bit_length() - 1)) if room >= each else 1


def _row(config: Config, case: Case, device: torch.device, folder: Path) -> Row:
    torch.manual_seed(0)
    x, time = torch.randn(case.shape, device=device), torch.rand(case.shape[0], device=device) * 1000
    label = torch.randint(0, case.network.num_classes, time.shape, device=device)
    plain, ours = PlainDiT(case.network).to(device), DiT(case.network).to(device)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.02)
    ours.load_state_dict(plain.state_dict())
    truth = _run(plain, x, time, label)()
    conditioned = (x, time, Condition(label=label))
    if relative_error(_run(ours, *conditioned)(), truth) > EXACT:
        raise WorkError("the network and its plain twin differ in float32")
    samples, _, frames, height, width = case.shape
    sizes = [(samples, case.network.tokens((frames, height, width)))]
    heads = case.network.attention_heads()
    ours.use_attention(settle(heads, device, torch.bfloat16, sizes, folder))  # as a run does at its start
    runs = {}
    if config.compiled:
        compiled = copy.deepcopy(ours)
        compile_blocks(compiled.blocks)
        runs["longtake, compiled"] = _run(compiled.bfloat16(), *conditioned)
    runs["longtake"] = _run(ours.bfloat16(), *conditioned)
    runs[FP32] = _run(plain, x, time, label)
    runs[AUTOCAST] = _run(plain, x, time, label, autocast=True)
    checks = {name: _is_near(truth, EXACT if name == FP32 else ROUNDED) for name in runs}
    others, absent = public_dits.find(case.network, case.shape, config.peer)
    for name, model in others.items():
        inputs = public_dits.inputs(name, x, time, label)
        runs[f"{name}, float32"] = _run(model.to(device), *inputs)
        runs[f"{name}, bf16 autocast"] = _run(model, *inputs, autocast=True)
    runs[PRODUCTS] = products(case.network, case.shape, device)
    ways = [
        Way(name, len(x), _rounds_of(run, device), checks.get(name, _is_finite)) for name, run in runs.items()
    ]
    protocol = (
        "one forward and backward pass; ours and plain have the same weights, checked against float32: "
        f"within {EXACT:g} in float32 and {ROUNDED:g} in bf16, of output and of all gradients"
    )
    row = Row(case.name, "samples", protocol, measure(ways, config.rounds), absent)
    _add_promises(row, case, device)
    return row


def _run(model: nn.Module, *inputs: Any, autocast: bool = False) -> Run:
    parameters = [p for p in model.parameters() if p.requires_grad]

    def run() -> Result:
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=autocast):
            out = model(*inputs)
        out = out if isinstance(out, Tensor) else out[0]
        return out.detach(), torch.autograd.grad(out.float().square().mean(), parameters, allow_unused=True)

    return run


def _rounds_of(run: Run, device: torch.device) -> Callable[[], Iterator[Result]]:
    def items() -> Iterator[Result]:
        result = run()
        hardware.wait(device)
        yield result

    return items


def relative_error(found: Result, truth: Result) -> float:
    """Return the larger error of the output and of all gradients as one vector: |found - truth| / |truth|."""

    def error(ours: Sequence[Tensor], right: Sequence[Tensor]) -> float:
        apart = math.fsum(
            float((a.double() - b.double()).square().sum()) for a, b in zip(ours, right, strict=True)
        )
        return math.sqrt(apart / math.fsum(float(b.double().square().sum()) for b in right))

    return max(error([found[0].reshape(truth[0].shape)], [truth[0]]), error(found[1], truth[1]))


def _is_near(truth: Result, tolerance: float) -> Callable[[Result], bool]:
    return lambda found: relative_error(found, truth) <= tolerance


def _is_finite(found: Result) -> bool:
    return bool(found[0].isfinite().all())


def products(network: DiTConfig, shape: Sequence[int], device: torch.device) -> Run:
    """Return a run of the matrix products of a forward and backward pass, with their shapes, and no more.

    Products of single layers around the blocks, under 1 % of the work, are left out.
    """
    batch, tokens, width = shape[0], math.prod(network.grid((shape[2], shape[3], shape[4]))), network.width
    hidden, heads = int(width * network.mlp_ratio), network.heads
    layers = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, device=device, dtype=torch.bfloat16)

    linear = [
        (random(batch * tokens, inputs), random(outputs, inputs), random(batch * tokens, outputs))
        for inputs, outputs in layers
    ]
    query, scores = random(batch * heads, tokens, width // heads), random(batch * heads, tokens, tokens)

    def run() -> Result:
        for _ in range(network.depth):
            for x, weight, gradient in linear:
                out = x @ weight.t()
                gradient @ weight
                gradient.t() @ x
            for _ in range(2):  # scores, and weights from the gradient of the output
                torch.bmm(query, query.mT)
            torch.bmm(scores, query)
            torch.bmm(scores, query)
            for _ in range(2):
                torch.bmm(scores.mT, query)
        return out, ()

    return run


def _add_promises(row: Row, case: Case, device: torch.device) -> None:
    ours, flops = next(iter(row.timings.values())), train_flops(case.network, case.shape[2:])
    row.facts["TFLOP/s of longtake"] = ours.best * flops / 1e12
    if peak := hardware.peak_tflops(hardware.device_name(device)):
        row.facts["MFU, over the data sheet"] = ours.best * flops / 1e12 / peak
    row.facts["of the best square bf16 matmul"] = (
        ours.best * flops / 1e12 / hardware.measured_tflops(device, seconds=1.0)
    )
    row.facts["matmuls alone in bf16, times plain float32"] = (
        row.timings[PRODUCTS].best / row.timings[FP32].best
    )
    row.require(FP32, 3.3)
    row.require(AUTOCAST, 1.35)
    row.floors.append(Floor("of matmuls alone", row.ratio(PRODUCTS), 0.6))
