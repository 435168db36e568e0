"""The workers of `encode`: each takes shards from the queue until none is left; one completes the cache."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from core import environment
from core.errors import CONTINUABLE, EndedEarly, UserError, WorkError
from core.progress import counted, say
from core.queue.config import QueueConfig
from core.queue.work_queue import WorkQueue
from core.run import signals
from core.run.ending import Ending
from data.dataset.cache_notes import cache_notes
from data.dataset.faults import require_no_program_errors
from data.dataset.manifest import DatasetManifest
from data.dataset.quarantine import BudgetError, read_quarantine
from data.dataset.schema import MANIFEST, QUARANTINE
from data.latent.assembly import assemble
from data.latent.encode_job import Job
from models.precision import work_alike
from tools.encode.setup import (
    LEASES,
    Encoding,
    Sharing,
    Take,
    choose_device,
    clear,
    make_job,
    settled_precision,
    start,
)
from tools.encode.share import Share

ASSEMBLY = "dataset"  # the last unit of work


def encode(config: Encoding, sharing: Sharing, take: Take) -> None:
    """Encode what is left, in `processes` workers; a rank of an outside launcher is one worker.

    take: claims the output.
    """
    alone = sharing.processes == 1 or environment.is_rank()
    worker = environment.place().local_rank
    device = _prepare(config.device, config.threads, worker)
    with (ending := Ending()).catching():
        settled = replace(config, precision=settled_precision(config, device))
        job, made_from = make_job(settled, device if alone else torch.device("cpu"))
        made_from["computation"]["device"] = device.type
        try:
            if not start(job, made_from, sharing, take):
                say(f"{config.output}: finished before")
                return
            make_queue(config.output, sharing.queue, job).forget_losses()
            if alone:
                _work(config.output, sharing.queue, job, made_from, ending)
            else:
                _work_in_processes(config, sharing)
        except (OSError, WorkError):
            if not (config.output / MANIFEST).exists():
                raise  # else others completed the cache, and what we were at has gone with its making
    clear(config.output)
    _tell(config.output)
    require_no_program_errors(config.output)


def repair(config: Encoding, sharing: Sharing, take: Take) -> None:
    """Redo the parts that are damaged, and try again the shards that failed."""
    from tools.encode.repair import repair_finished, repair_unfinished

    if (config.output / MANIFEST).exists():
        with Ending().catching():
            device = _prepare(config.device, config.threads, 0)
            repair_finished(*make_job(config, device), sharing, take)
    else:
        repair_unfinished(config.output)
        encode(config, sharing, take)


def make_queue(output: Path, config: QueueConfig, job: Job) -> WorkQueue:
    """Return the shards of the source as units of work, which workers share through the output."""
    units = [f"{shard:06d}" for shard in range(len(job.dataset.manifest.shards))]
    return WorkQueue(
        output / LEASES,
        units,
        config,
        list_done=lambda: {f"{shard:06d}" for shard in job.finished()},
        is_done=lambda unit: job.is_finished(int(unit)),
        fatal=(BudgetError,),
    )


def _prepare(device_name: str, threads: int, worker: int) -> torch.device:
    """Return the worker's device, set up so that equal inputs give equal bytes on it."""
    device = choose_device(device_name, worker)
    work_alike(threads)
    return device


def _work(output: Path, config: QueueConfig, job: Job, made_from: dict[str, Any], ending: Ending) -> None:
    """Encode shards as one worker until none is left; complete the cache if no other worker does."""
    queue = make_queue(output, config, job)
    share = Share(job, queue, ending)
    with share.progress, ending.holding_signals():
        queue.work(share.encode, share.wait)
        share.catch_up()
    _require_no_failures(queue)
    with ending.holding_signals():
        _complete(output, config, job, made_from, ending)


def _require_no_failures(queue: WorkQueue) -> None:
    done = queue.list_done()
    failures = [failure for failure in queue.failures() if failure.final and failure.unit not in done]
    if failures:
        named = "; ".join(f"{failure.unit}: {failure.errors[-1]}" for failure in failures)
        raise WorkError(
            f"{len(failures)} of {counted(len(queue.units), 'shard')} failed and were given up: {named} "
            "(the others are encoded; action=repair tries these again)"
        )


def _complete(output: Path, config: QueueConfig, job: Job, made_from: dict[str, Any], ending: Ending) -> None:
    """Complete the cache; one worker does, the others wait for it or take over."""
    manifest = output / MANIFEST

    def complete(unit: str) -> None:
        with ending.allowing_signals():
            assemble(job, made_from)

    WorkQueue(
        output / LEASES,
        [ASSEMBLY],
        config,
        list_done=lambda: {ASSEMBLY} if manifest.exists() else set(),
        fatal=(WorkError, OSError),
    ).work(complete)


def _tell(output: Path) -> None:
    """Say what a finished cache holds."""
    manifest = DatasetManifest.read(output)
    count = len(read_quarantine(output))
    aside = f"; {count} set aside, see {output / QUARANTINE}" if count else ""
    contents = f"{counted(manifest.samples, 'sample')} in {counted(len(manifest.shards), 'part')}"
    say(f"{output}: {contents}{aside}")
    if manifest.extra.get("longest_text") == 0:
        say("warning: a text encoder was given, and no sample has a caption")
    statistics = manifest.extra["statistics"]
    for channel, (mean, std) in enumerate(zip(statistics["mean"], statistics["std"], strict=True)):
        say(f"latent channel {channel}: mean {mean:.4f}, standard deviation {std:.4f}")
    for line in cache_notes(manifest):
        say(line)


def _work_in_processes(config: Encoding, sharing: Sharing) -> None:
    """Run workers in processes of their own; one that dies is reported, and its shard goes to the others."""
    context = multiprocessing.get_context("spawn")  # no forked threads of numeric libraries
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        for number in range(sharing.processes):
            receiver, sender = context.Pipe(duplex=False)
            arguments = config, sharing.queue, number, sender
            process = context.Process(target=_be_worker, args=arguments, daemon=True)
            process.start()
            sender.close()
            workers.append((process, receiver))
        problems = [_outcome(number, *worker) for number, worker in enumerate(workers)]
    finally:
        for worker, _ in workers:
            worker.terminate()
            worker.join()
    found = [problem for problem in problems if problem is not None]
    if not (config.output / MANIFEST).exists():
        raise found[0]
    for problem in found:
        say(f"{problem}; the others finished")


def _outcome(
    number: int, process: BaseProcess, words: Connection
) -> UserError | WorkError | EndedEarly | None:
    """Wait for a worker's end; return what went wrong, if anything."""
    try:
        kind, message = words.recv()
    except EOFError:
        kind, message = "", ""
    process.join()
    if not process.exitcode:
        return None
    if message:
        return UserError(message) if kind == "UserError" else WorkError(message)
    code = process.exitcode
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    if code == CONTINUABLE or -code in signals.SIGNALS:
        return EndedEarly(f"worker {number} {how}; the same command continues the work")
    return WorkError(f"worker {number} {how}")


def _be_worker(config: Encoding, queue: QueueConfig, number: int, words: Connection) -> None:
    """Work as a worker in a process of its own; only the first one reports."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    environment.become_worker(number)
    try:
        with (ending := Ending(speaks=False)).catching():  # the process that started it speaks
            device = _prepare(config.device, config.threads, number)
            _work(config.output, queue, *make_job(config, device), ending)
    except (UserError, WorkError, OSError) as error:
        words.send((type(error).__name__, str(error)))
        sys.exit(1)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)
