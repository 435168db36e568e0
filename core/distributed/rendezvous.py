"""Rendezvous for the tasks of one `srun`: rank 0 publishes a free port in the output folder.

Nobody has to choose a port, and two jobs on a node never race for one. The file is named by job, restart and
step, so a requeued job never reads the address of its last start. It is removed when all ranks have met; one
that a killed job left behind does no harm, since `core/run/claim.py` ignores it.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed import (  # type: ignore[attr-defined]  # not in its __all__
    TCPStore,
    rendezvous,
)

from core import environment
from core.environment import Place
from core.errors import UserError, WorkError
from core.files import MEETING_PREFIX, read_text, write_text

WAIT_S = 300.0  # for the first rank's address: nodes may start their tasks minutes apart
POLL_S = 0.1
LONGEST = 4096  # bytes of an address


def meet(place: Place, folder: Path | None, timeout_s: float) -> TCPStore:
    """Return the store at which all tasks of this `srun` have come together (collective: all ranks).

    folder: where the address is published; None where a person has to set MASTER_ADDR and MASTER_PORT, which
    are taken in any case.  timeout_s: of the store, once it is found.
    """
    host, port = environment.master()
    if host and port:
        return _store(host, port, place, timeout_s)
    name = environment.meeting()
    if folder is None or name is None:
        raise UserError("MASTER_ADDR", host or "''", "an address, and MASTER_PORT a port, for this job")
    if folder.exists() and not folder.is_dir():
        raise UserError("output", folder, "a folder, and this is a file")
    path = folder / f"{MEETING_PREFIX}{name}"
    if place.rank == 0:
        store = _store(host or _own_name(), port, place, timeout_s)
        write_text(path, f"{host or _own_name()}:{store.port}\n")
    else:
        host, port = _read(path, min(WAIT_S, timeout_s))
        store = _store(host, port, place, timeout_s)
    _leave_together(store, place)
    if place.rank == 0:
        path.unlink(missing_ok=True)
    return store


def by_environment(rank: int, size: int, timeout_s: float) -> Any:
    """Return the store at which ranks meet by torch's `env://` (collective: all ranks)."""
    limit = timedelta(seconds=timeout_s)
    store = next(rendezvous("env://", rank, size, timeout=limit))[0]
    store.set_timeout(limit)
    return store


def _store(host: str, port: int, place: Place, timeout_s: float) -> TCPStore:
    """Return the first rank's own server, or a connection to it."""
    is_first, limit = place.rank == 0, timedelta(seconds=timeout_s)
    try:
        return TCPStore(host, port, is_master=is_first, wait_for_workers=False, timeout=limit)
    except RuntimeError as error:
        does = "host the rendezvous at" if is_first else "reach rank 0 at"
        reason = str(error).splitlines()[0]
        raise WorkError(f"rank {place.rank} cannot {does} {host}:{port}: {reason}") from None


def _leave_together(store: TCPStore, place: Place) -> None:
    """Wait until every rank has come, so that the address is needed no more."""
    store.set(f"longtake/met/{place.rank}", "here")
    if store.add("longtake/met/count", 1) == place.size:
        store.set("longtake/met/all", "here")
    if place.rank == 0:
        try:
            store.wait(["longtake/met/all"])
        except RuntimeError:
            missing = [n for n in range(place.size) if not store.check([f"longtake/met/{n}"])]
            who = f"rank {missing[0]} of {place.size}" if missing else "a rank"
            raise WorkError(f"{who} has not come to the rendezvous") from None


def _read(path: Path, wait_s: float) -> tuple[str, int]:
    """Return the address that rank 0 has published, or publishes within `wait_s` seconds."""
    limit = time.monotonic() + wait_s
    while True:
        try:
            host, _, port = read_text(path, LONGEST).strip().rpartition(":")
            return host, int(port)
        except (FileNotFoundError, NotADirectoryError):
            if time.monotonic() > limit:
                raise WorkError(
                    f"rank 0 has not published its address in {path} within {wait_s:.0f} s: it has not "
                    f"started, or {environment.node()} does not see the same folder"
                ) from None
        time.sleep(POLL_S)
        if path.parent.is_dir():
            os.listdir(path.parent)  # makes an NFS client look for new names


def _own_name() -> str:
    """Return the name by which other nodes find this one: SLURM's where it resolves, else the host's."""
    for name in dict.fromkeys((environment.node(), socket.gethostname(), socket.getfqdn())):
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            continue
        return name
    raise WorkError(f"{environment.node()} does not resolve to an address; set MASTER_ADDR and MASTER_PORT")
