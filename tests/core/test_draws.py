"""Keyed draws: the published known answers, independence of the batch, and the distributions."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.draws import Draws
from core.permutations import permutation, scrambled
from core.philox import TensorDraws, box_muller, philox

# Random123 kat_vectors, philox4x32 with 10 rounds: counter, key, expected.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def draws(ids: list[int], positions: list[int] | None = None, seed: int = 7, step: int = 3) -> Draws:
    return Draws(seed, step, torch.tensor(ids), torch.tensor(positions or [0] * len(ids)))


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """Compute the paper's round word by word in Python integers: the twin of the vectorised one."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_published_known_answers(counter: str, key: str, expected: str) -> None:
    assert philox(torch.tensor(words(counter)), torch.tensor(words(key))).tolist() == words(expected)


def test_vectorised_philox_equals_the_plain_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    counters = torch.randint(0, 2**32, (50, 4), generator=generator)
    keys = torch.randint(0, 2**32, (50, 2), generator=generator)
    expected = [plain_philox(c, k) for c, k in zip(counters.tolist(), keys.tolist(), strict=True)]
    assert philox(counters, keys).tolist() == expected


def test_a_draw_does_not_depend_on_the_rest_of_the_batch() -> None:
    ids, positions = [5, 2**40 + 5, 5, 0], [0, 1, 2, 3]
    whole = draws(ids, positions)
    for index, (id, position) in enumerate(zip(ids, positions, strict=True)):
        alone = draws([id], [position])
        assert torch.equal(whole.bits("noise", 7)[index], alone.bits("noise", 7)[0])
        assert torch.equal(whole.normal("noise", (2, 3))[index], alone.normal("noise", (2, 3))[0])
        assert torch.equal(whole.uniform("time")[index], alone.uniform("time")[0])


def test_every_part_of_the_key_changes_the_draw() -> None:
    variants = [
        draws([1]).bits("noise", 4),
        draws([2]).bits("noise", 4),
        draws([1 + 2**32]).bits("noise", 4),
        draws([1], [1]).bits("noise", 4),
        draws([1], step=4).bits("noise", 4),
        draws([1], seed=8).bits("noise", 4),
        draws([1], seed=7 + 2**32).bits("noise", 4),
        draws([1]).bits("time", 4),
    ]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(variants, 2))


def test_a_longer_draw_begins_with_the_shorter() -> None:
    assert torch.equal(draws([3]).bits("x", 10)[:, :5], draws([3]).bits("x", 5))
    assert torch.equal(draws([3]).normal("x", (9,))[:, :6], draws([3]).normal("x", (6,)))


@pytest.fixture
def by_tensors(monkeypatch: pytest.MonkeyPatch) -> Callable[[Draws], Draws]:
    """Return what makes draws be made as on a device without kernels, by operations on tensors."""
    device = TensorDraws()
    device.device_type = "cpu"

    def make(one: Draws) -> Draws:
        monkeypatch.setattr("core.draws.on_gpu", device)
        return replace(one)

    return make


@pytest.mark.parametrize("seed", [2**63 - 1, (1, 2**64 - 1, 3, 4)])
def test_operations_on_tensors_give_the_bits_of_arrays(
    by_tensors: Callable[[Draws], Draws], seed: int | tuple[int, ...]
) -> None:
    ids, positions = torch.tensor([0, 7, 2**40 + 3, 2**62]), torch.tensor([3, 0, 2**31, 2**32 - 1])
    here = Draws(seed, 2**32 - 1, ids, positions)
    sizes, pair = (1, 6, 1031), ("posterior", "noise")
    bits, uniforms = [here.bits("noise", n) for n in sizes], [here.uniform("time", (n,)) for n in sizes]
    normals = [[here.normal(purpose, (n,)) for purpose in pair] for n in sizes]
    there = by_tensors(here)
    for place, n in enumerate(sizes):
        assert torch.equal(there.bits("noise", n), bits[place])
        assert torch.equal(there.uniform("time", (n,)), uniforms[place])
        there.together(pair, (n,))
        for _ in range(2):  # made together, and then anew
            assert all(
                torch.equal(there.normal(p, (n,)), x) for p, x in zip(pair, normals[place], strict=True)
            )


def test_a_stream_on_a_device_is_its_key_its_counter_and_its_first_block(
    by_tensors: Callable[[Draws], Draws],
) -> None:
    here = draws([11, 2**40], [0, 1])
    first = here.bits("x", 4)
    with pytest.raises(ValueError, match="keeps streams in another form"):
        here.stream("x")
    k0, k1, c2, c3, _ = here._streams["x"]
    found = by_tensors(here).stream("x")
    assert found[:4].tolist() == np.stack([k0, k1, c2, c3]).tolist()
    assert torch.equal(found[4:].t(), first)


def test_what_is_expected_is_started_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    one, expected = draws([3]), draws([3])
    goes: list[list[str]] = []
    plain = Draws._start_streams
    monkeypatch.setattr(Draws, "_start_streams", lambda self, names: goes.append(names) or plain(self, names))
    expected.expect(("flip", "time"))
    expected.expect(("time", "noise"))
    assert goes == [["flip", "time"], ["noise"]]
    assert torch.equal(expected.bits("time", 5), one.bits("time", 5))


def test_fixed_values_stay_what_they_are() -> None:
    """Changing these changes every run that is continued."""
    assert draws([11, 12], [0, 1]).bits("noise", 2).tolist() == GOLDEN_BITS
    assert permutation(0, "order", (1, 2), 8).tolist() == [5, 6, 7, 1, 2, 0, 3, 4]


GOLDEN_BITS = [[780847648, 830538365], [3579650613, 1124345612]]


def test_a_block_beyond_32_bits_takes_the_second_word_of_the_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """No draw is as long; the counter has room for it."""
    far = 2**33 + 5
    monkeypatch.setattr("core.draws._arange", lambda count: np.array([[far]], np.uint64))
    one = draws([11])
    one.bits("x", 1)
    k0, k1, c2, c3, _ = one._streams["x"]
    stream = [int(word[0]) for word in (k0, k1, c2, c3)]
    assert one.bits("x", 5)[0, :4].tolist() == plain_philox([5, 2, *stream[2:]], stream[:2])


def test_uniforms_and_normals_are_made_of_the_words_of_the_stream() -> None:
    one = draws([11, 12], [0, 1])
    bits = one.bits("x", 8)
    assert one.uniform("x", (2, 4)).tolist() == (((bits >> 9).double() + 0.5) / 2**23).view(-1, 2, 4).tolist()
    w0, w1, w2, w3 = bits.double().view(2, 2, 4).unbind(-1)
    pairs = [
        (-2 * ((a + 0.5) / 2**32).log()).sqrt() * turn(2 * torch.pi * b / 2**32)
        for a, b in ((w0, w1), (w2, w3))
        for turn in (torch.cos, torch.sin)
    ]
    torch.testing.assert_close(
        one.normal("x", (8,)), torch.stack(pairs, -1).view(2, 8).float(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("ids", "positions"), [([1, 2], [0]), ([[1]], [[0]])])
def test_ids_and_positions_of_other_shapes_are_refused(ids: list, positions: list) -> None:
    with pytest.raises(ValueError, match=r"must be \(B,\)"):
        Draws(7, 3, torch.tensor(ids), torch.tensor(positions)).bits("x", 1)


def test_what_a_step_draws_is_started_together_whatever_is_asked_for_first() -> None:
    one = draws([3])
    one.bits("flip", 1)
    assert list(one._streams) == ["flip", "posterior", "condition_dropout", "time", "noise"]
    assert torch.equal(one.bits("noise", 9), draws([3]).bits("noise", 9))


def test_the_first_and_last_step_and_position_fit_the_counter_and_fewer_than_none_do_not() -> None:
    assert not torch.equal(draws([1], step=0).bits("x", 4), draws([1], step=1).bits("x", 4))
    largest = 2**32 - 1
    assert not torch.equal(draws([1], [largest], step=largest).bits("x", 4), draws([1]).bits("x", 4))
    with pytest.raises(ValueError, match="32-bit"):
        draws([1], step=-1)


def test_what_was_drawn_makes_no_other_draws_of_them_and_goes_to_no_other_device() -> None:
    one = draws([1])
    same, shown = replace(one), repr(one)
    one.bits("x", 1)
    assert (one == same, repr(one)) == (True, shown)
    assert one.to(torch.device("cpu"))._streams == {}


def test_no_more_blocks_are_made_than_are_asked_for() -> None:
    assert [tuple(word.shape) for word in draws([1, 2])._words("x", 9)] == [(2, 3)] * 4


def test_the_least_word_gives_the_largest_normal() -> None:
    first, second = box_muller(torch.tensor([0]), torch.tensor([0]))
    assert first.item() == pytest.approx((2 * 33 * math.log(2)) ** 0.5)
    assert second.item() == 0


def test_words_are_scrambled_as_splitmix64_does() -> None:
    """The published generator's first numbers from the seed 1234567."""
    states = (1234567 + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    assert scrambled(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_uniform_is_open_exact_and_uniform() -> None:
    u = draws(list(range(100))).uniform("u", (1000,)).double()
    assert u.min() > 0
    assert u.max() < 1
    assert torch.equal(u * 2**24 % 2, torch.ones_like(u))  # midpoints k + 1/2 of 2^23 cells, no rounding
    sorted_u = u.flatten().sort().values
    ranks = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert (sorted_u - ranks).abs().max() < 1.95 / 100_000**0.5  # Kolmogorov-Smirnov at 0.1 %


def test_normal_has_the_moments_and_the_tail_of_a_normal() -> None:
    x = draws(list(range(200))).normal("n", (5, 200)).double().flatten()
    n = len(x)
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5
    ranks = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert (torch.special.ndtr(x.sort().values) - ranks).abs().max() < 1.95 / n**0.5
    assert 3.5 < x.abs().max() < 6.8


def test_samples_and_neighbours_are_uncorrelated() -> None:
    x = draws(list(range(64)), list(range(64))).normal("n", (4096,)).double()
    correlation = torch.corrcoef(x)[~torch.eye(64, dtype=torch.bool)]
    assert correlation.abs().max() < 5.5 / 4096**0.5
    assert abs((x[:, 1:] * x[:, :-1]).mean()) < 4 / x.numel() ** 0.5


def test_a_step_that_does_not_fit_the_counter_is_refused() -> None:
    with pytest.raises(ValueError, match="32-bit"):
        draws([1], step=2**32)


def test_permutation_is_a_keyed_permutation() -> None:
    p = permutation(3, "order", (0, 1), 1000)
    assert p.dtype == np.int64
    assert sorted(p) == list(range(1000))
    assert np.array_equal(p, permutation(3, "order", (0, 1), 1000))
    for other in (permutation(4, "order", (0, 1), 1000), permutation(3, "order", (0, 2), 1000)):
        assert (p == other).sum() < 10
    assert len(permutation(3, "order", (0,), 0)) == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_integers_and_uniforms_are_bitwise_equal_on_cuda() -> None:
    cpu = draws(list(range(33)), list(range(33)))
    cuda = cpu.to(torch.device("cuda"))
    assert torch.equal(cpu.bits("x", 1001), cuda.bits("x", 1001).cpu())
    assert torch.equal(cpu.uniform("x", (1001,)), cuda.uniform("x", (1001,)).cpu())
    torch.testing.assert_close(
        cpu.normal("x", (1001,)), cuda.normal("x", (1001,)).cpu(), rtol=1e-5, atol=1e-6
    )
