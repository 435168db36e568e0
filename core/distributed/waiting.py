"""Wait for other ranks for as long as they are alive.

A collective fails when its time-out has passed, even if the rank it waits for is only busy: with a slow disk,
or with more samples than the others. So ranks whose work differs `meet` first, without a time-out, and the
collective that follows finds them all there.

A peer that has died closes its connections, which ends the wait at once. One that hangs (a stopped process, a
lost node) keeps them open. Therefore a thread of every rank sends signs of life, by incrementing a counter in
the store at which the ranks have met. Rank 0 watches all ranks, the others watch rank 0.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from core.distributed import tree
from core.errors import PeerLost

PERIOD_S = 5.0  # between two signs of life
LEAST_PATIENCE_S = 30.0  # a thread may have to wait so long for a processor, or for the interpreter
LOOK_S = 1.0  # between two looks at the others

_life: Life | None = None


class Life:
    """The signs of life of this rank, and a view of those of others.

    group: of all ranks on CPUs, None for the default one.  patience_s: a rank without a sign of life for so
    long counts as lost.
    """

    def __init__(self, store: Any, rank: int, size: int, patience_s: float, group: Any = None) -> None:
        self.group, self._store, self._rank = group, store, rank
        self.watched = range(1, size) if rank == 0 else range(1)
        self.patience_s = max(LEAST_PATIENCE_S, patience_s)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        count = 0
        try:
            while True:
                self._store.set(_key(self._rank), str(count := count + 1))
                if self._ended.wait(min(PERIOD_S, self.patience_s / 4)):
                    return
        except RuntimeError:
            return  # the host of the store has died: waiting ranks notice that themselves

    def signs(self) -> list[bytes]:
        """Return each watched rank's last sign of life, b"" for none; PeerLost where the store has gone."""
        keys = [_key(rank) for rank in self.watched]
        try:
            if self._store.check(keys):
                return list(self._store.multi_get(keys))
            return [self._store.get(key) if self._store.check([key]) else b"" for key in keys]
        except RuntimeError as error:
            raise PeerLost(f"the store where ranks met has gone: {str(error).splitlines()[0]}") from None

    def end(self) -> None:
        """Stop giving signs of life."""
        self._ended.set()
        self._thread.join()


class Silence:
    """How long watched ranks have given no sign of life, as this wait has observed.

    patience_s: of this wait; None is that of `life`.
    """

    def __init__(
        self, life: Life, clock: Callable[[], float] = time.monotonic, patience_s: float | None = None
    ) -> None:
        self._life, self._clock = life, clock
        self._patience_s = life.patience_s if patience_s is None else patience_s
        self._signs: Sequence[bytes] = [b""] * len(life.watched)
        self._since = [clock()] * len(life.watched)

    def require_signs(self) -> None:
        """Raise PeerLost where a rank has been silent for longer than the patience."""
        now, signs = self._clock(), self._life.signs()
        for place, rank in enumerate(self._life.watched):
            if signs[place] != self._signs[place]:
                self._since[place] = now
            elif now - self._since[place] > self._patience_s:
                raise PeerLost(
                    f"rank {rank} has given no sign of life for {now - self._since[place]:.0f} s while "
                    "others waited for it"
                )
        self._signs = signs


def silence(patience_s: float) -> Silence | None:
    """Return how long others are silent from now on; None for a rank that is alone."""
    return Silence(_life, patience_s=patience_s) if _life is not None else None


def begin(patience_s: float) -> None:
    """Give signs of life from now on (collective: all ranks); they end with `end`."""
    global _life
    if _life is None and dist.get_world_size() > 1:
        group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        _life = Life(store(), dist.get_rank(), dist.get_world_size(), patience_s, group)


def end() -> None:
    """Tell the others that this rank has left and need not be waited for."""
    global _life
    if _life is not None:
        _life.end()
        _life = None


def meet(group: Any = None) -> None:
    """Wait until every rank is here, for as long as all of them live (collective: all ranks).

    group: of all ranks on CPUs; a thread beside the main one needs its own.
    PeerLost, or what the backend raises, where a rank has died or stopped.
    """
    exchange(None, lambda values: None, group)


def exchange(
    value: Any, combine: Callable[[Sequence[Any]], Any], group: Any = None, *, to_all: bool = True
) -> Any:
    """Return what `combine` makes of every rank's small, plain `value`, as `tree.exchange` does, while all of
    them live (collective: all ranks).

    group, and what is raised: as of `meet`.
    """
    from torch.distributed import distributed_c10d as c10d

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return combine([value])
    if _life is None:  # the group was made elsewhere
        begin(LEAST_PATIENCE_S)
    assert _life is not None
    place = group or _life.group or c10d._get_default_group()
    # In a thread: a wait for gloo's messages that ends early, to look at the others, breaks the whole group.
    thread = ThreadPoolExecutor(1, "exchange")
    work = thread.submit(tree.exchange, value, combine, place, to_all=to_all)
    thread.shutdown(wait=False)
    silence: Silence | None = None
    while not wait([work], LOOK_S).done:
        silence = silence or Silence(_life)
        silence.require_signs()
    return work.result()


def arrive(place: str) -> None:
    """Tell `all_arrived` on every rank that this one has come to `place`, a name used once in a job."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        with contextlib.suppress(RuntimeError):  # the host of the store has died
            if store().add(_arrival(place, "count"), 1) == dist.get_world_size():
                store().set(_arrival(place, "all"), "here")


def all_arrived(place: str, timeout_s: float) -> bool:
    """Return whether every rank comes to `place` within so many seconds.

    Asked through the store where ranks met, so that it works when collectives have failed, and may be asked
    of ranks that are dead, stopped, or busy elsewhere.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return True
    try:
        store().wait([_arrival(place, "all")], timedelta(seconds=timeout_s))
    except RuntimeError:  # a rank is late, or the host of the store has died
        return False
    return True


def store() -> Any:
    """Return the store at which the ranks have met."""
    from torch.distributed import distributed_c10d as c10d

    return c10d._get_default_store()


def _arrival(place: str, what: str) -> str:
    return f"longtake/{place}/{what}"


def _key(rank: int) -> str:
    return f"longtake/alive/{rank}"
