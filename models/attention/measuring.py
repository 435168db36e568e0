"""Compare an attention backend with float64 and time it, forward and backward, on a run's inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from core.metrics.hardware import device_name
from models.attention.backends import releases
from models.attention.by_ring import ring_alone
from models.attention.dispatch import Backend, attention

SECONDS = 0.1  # for timing one candidate on a CPU, after a first call
CALLS, ROUNDS = 10, 3  # on a GPU: calls that are queued together, and how often; the least time counts
AHEAD_CYCLES = (
    20_000_000  # of a GPU that waits, some 10 ms, while calls are queued: Python's time is not theirs
)
# Scores that one call has at most; on a CPU more take seconds, and their order is that of fewer samples.
MOST_SCORES = {"cpu": 1 << 25, "cuda": 1 << 36}
CHECKED_SCORES = {"cpu": 1 << 22, "cuda": 1 << 30}  # that are computed again in float64
LONGEST_PLAIN = 2048  # tokens whose float64 scores are held whole
IN_A_RING = " in a ring"  # ends the keys of such choices
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # |found - truth| / |truth|


@dataclass(frozen=True)
class Case:
    """Everything a choice depends on.

    tokens: as `bucket` returns it.  sizes: the samples and the tokens of the run's inputs that it stands for.
    heads: that one rank attends with.  in_place: as of `AttentionHeads`.  traded: whether ranks have traded
    tokens for heads before, after which values lie apart too.
    ring: whether the inputs are shares of a ring, whose hops are to be joined.
    """

    device: torch.device
    dtype: torch.dtype
    head_width: int
    tokens: int
    sizes: tuple[tuple[int, int], ...]
    heads: int = 4
    in_place: bool = False
    traded: bool = False
    ring: bool = False

    @property
    def measured(self) -> str:
        """Return its key among what this user has measured."""
        sizes = ", ".join(f"{samples} x {tokens}" for samples, tokens in self.sizes)
        lie = "all apart" if self.traded else "in place" if self.in_place else "apart"
        return f"{self.key}, {self.heads} heads {lie}, samples and tokens {sizes}"

    @property
    def key(self) -> str:
        """Return its key in a run's own file, the same with other micro-batches."""
        dtype = str(self.dtype).removeprefix("torch.")
        machine = f"{device_name(self.device)}, torch {torch.__version__}"
        if self.device.type == "cuda":
            machine += f", {releases()}"
        around = IN_A_RING if self.ring else ""
        return f"{machine}, {dtype}, head width {self.head_width}, {self.tokens} tokens{around}"


def wrong(name: str, case: Case) -> str:
    """Return why `name` must not be used here, or '': its output and gradients against plain float64.

    At each length of the run, with the strides that its tensors have; of few samples, and of as many heads as
    can be computed again in float64.
    """
    for _, tokens in case.sizes:
        inputs = _inputs(case, min(2, _most(MOST_SCORES, case, tokens)), tokens)
        heads = max(1, min(case.heads, CHECKED_SCORES[case.device.type] // (inputs[0].shape[0] * tokens**2)))
        try:
            found = _run(cast(Backend, name), inputs, ring=case.ring)
        except Exception as error:  # kernels compiled as they are called refuse in ways of their own
            return str(error).strip().partition("\n")[0] or "it fails"
        plain: Backend = "math" if tokens <= LONGEST_PLAIN else "chunked"
        truth = _run(plain, [x.detach()[:, :, :heads].double().requires_grad_() for x in inputs])
        limit = TOLERANCE.get(case.dtype, TOLERANCE[torch.bfloat16])
        for what, got, want in zip(("output", "dq", "dk", "dv"), found, truth, strict=True):
            got = got.detach()[:, :, :heads].double()
            apart = float((got - want.detach()).norm() / want.detach().norm())
            if not apart < limit:
                return f"its {what} is off by {apart:.1g} at head width {case.head_width}"
    return ""


def seconds_of(name: Backend, case: Case) -> float:
    """Return the seconds of forward and backward, over all lengths of the case."""
    total = 0.0
    for samples, tokens in case.sizes:
        inputs = _inputs(case, min(samples, _most(MOST_SCORES, case, tokens)), tokens)
        gradient = torch.randn_like(inputs[0])

        def call(inputs: list[Tensor] = inputs, gradient: Tensor = gradient) -> None:
            torch.autograd.grad(_attend(name, inputs, ring=case.ring), inputs, gradient)

        call()  # sets things up
        total += seconds_on_gpu(call) if case.device.type == "cuda" else _on_cpu(call)
    return total


def seconds_on_gpu(call: Callable[[], object]) -> float:
    """Return the seconds of a call on the GPU alone, which waits until several are queued."""
    best = float("inf")
    for _ in range(ROUNDS):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(AHEAD_CYCLES)
        began.record()
        for _ in range(CALLS):
            call()
        ended.record()
        ended.synchronize()
        best = min(best, began.elapsed_time(ended) / CALLS / 1000)
    return best


def _on_cpu(call: Callable[[], None]) -> float:
    best, until = float("inf"), time.perf_counter() + SECONDS
    while best == float("inf") or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def _most(scores: Mapping[str, int], case: Case, tokens: int) -> int:
    """Return how many samples of a length have at most so many scores, at least one."""
    return max(1, scores[case.device.type] // (case.heads * tokens**2))


def _inputs(case: Case, samples: int, tokens: int) -> list[Tensor]:
    """Return queries, keys and values (B, N, K, Dh), all parts of one product or each apart."""
    generator = torch.Generator(case.device).manual_seed(0)
    shape = (samples, tokens, 3, case.heads, case.head_width)
    drawn = torch.randn(shape, generator=generator, device=case.device, dtype=case.dtype)
    query, key, value = (part.detach() for part in drawn.unbind(2))
    if not case.in_place:
        query, key = query.contiguous(), key.contiguous()
    if case.traded:
        value = value.contiguous()
    return [tensor.requires_grad_() for tensor in (query, key, value)]


def _attend(name: Backend, inputs: list[Tensor], *, ring: bool) -> Tensor:
    return ring_alone(*inputs, backend=name) if ring else attention(*inputs, backend=name)


def _run(name: Backend, inputs: list[Tensor], *, ring: bool = False) -> list[Tensor]:
    out = _attend(name, inputs, ring=ring)
    weight = torch.linspace(-1, 1, out.shape[1], device=out.device, dtype=out.dtype)[None, :, None, None]
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]
