"""The run in Weights & Biases: a view of what the run's own files record, which may fail or hang at any time.

wandb runs in a process of its own (this module, as a program), which reads rows from a pipe. So nothing it
does reaches training: a row is handed over without waiting, rows that it does not take in time are left out
of the view, and its end is waited for only so long.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, TypedDict

from core.files import atomic_file
from core.progress import say
from core.reading import json_files
from core.root import import_path
from core.run.folder import WANDB

WAITING_BYTES = 1 << 20  # the most bytes of rows that wandb has not taken yet; some thousand rows
FINISH_S = 30.0  # for wandb to send the rest when the run ends
LEAVE_S = 5.0  # for its process to end once it reads no more
REPORTED = 3  # exit status of the view's process when it has said itself why it ends


class _Identity(TypedDict):
    id: str


class WandbView:
    """Hands rows to wandb, which shows each step once, also after a restart or a rollback.

    Whatever wandb does wrong (not installed, no network, no key, stuck) costs the view, with a warning, never
    the run. A run that fails without `close` is shown as failed.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        run_config: Mapping[str, Any],
        failed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """failed: called with the reason if the view ends before the run."""
        self._failed = failed
        self._folder, self._waiting, self._is_behind = folder, bytearray(), False
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "core.metrics.trackers.wandb_view", str(folder), project],
                env={**os.environ, "PYTHONPATH": import_path()},
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the run, which then ends the view
            )
        except OSError as error:  # no memory or no process left
            say(f"warning: wandb could not start, metrics go to files only: {error}")
            failed(str(error))
            return
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)
        self._hand_over(dict(run_config))

    def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Show metrics rows, in order; lists are left out."""
        for row in rows:
            values = {name: v for name, v in row.items() if not isinstance(v, list)}
            self._hand_over(("metrics", row["step"], values))

    def show_beside(self, step: int, values: Mapping[str, float | None]) -> None:
        """Show further numbers of a step, beside its metrics, which were shown before."""
        self._hand_over(("beside", step, dict(values)))

    def show_pictures(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Show pictures and films, beside the metrics of their step."""
        self._hand_over(("pictures", step, {name: str(path.resolve()) for name, path in pictures.items()}))

    def rewind(self, step: int) -> None:
        """Leave out what was shown before: wandb takes no step twice."""

    def close(self) -> None:
        """Finish the view; what wandb has not sent after FINISH_S stays in its own files."""
        self._hand_over(("end", 0, {}))
        if (process := self._process) is None:
            return
        deadline = time.monotonic() + FINISH_S
        while self._waiting and time.monotonic() < deadline and self._process is not None:
            time.sleep(0.01)
            self._write()
        try:
            if process.stdin is not None:
                process.stdin.close()
            self._end(process.wait(max(0.0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            say(f"warning: wandb had not sent all in {FINISH_S:g} s; `wandb sync` sends {self._folder}/wandb")
            self._failed(f"it had not sent all in {FINISH_S:g} s")

    def _hand_over(self, message: Any) -> None:
        if self._process is None:
            return
        line = json.dumps(message).encode() + b"\n"
        if len(self._waiting) + len(line) <= WAITING_BYTES:
            self._waiting += line
        elif not self._is_behind:
            self._is_behind = True
            say("warning: wandb does not keep up and misses rows; the run's own files have all")
        self._write()

    def _write(self) -> None:
        """Write to the pipe what it takes at once."""
        try:
            del self._waiting[: os.write(self._pipe, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:  # it has ended, or reads no more
            process, self._process = self._process, None
            if process is not None:
                self._wait(process)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Report how the view's process ended; end it if it goes on without reading."""
        try:
            self._end(process.wait(LEAVE_S))
        except subprocess.TimeoutExpired:
            process.kill()
            self._end(process.wait())

    def _end(self, status: int) -> None:
        if status not in (0, REPORTED):
            say(f"warning: wandb has ended with status {status}, metrics go to files only")
        if status:
            self._failed("it said so" if status == REPORTED else f"ended with status {status}")


def main(folder: Path, project: str, messages: IO[str]) -> int:
    """Show what comes line by line: the run's config, then (kind, step, values). Return the exit status."""
    threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()
    did = "could not start"
    try:
        run = _start(folder, project, json.loads(messages.readline()))
        did = "failed and is off from here on"
        _show_all(run, messages)
    except ModuleNotFoundError as error:
        say(f"warning: wandb {did}, metrics go to files only: {error}; it comes with longtake[wandb]")
        return REPORTED
    except Exception as error:  # a view over the network may fail in any way
        say(f"warning: wandb {did}, metrics go to files only: {error}")
        return REPORTED
    return 0


def _start(folder: Path, project: str, run_config: Mapping[str, Any]) -> Any:
    """Start or continue the run in wandb, under the id kept in the run folder."""
    import wandb  # an extra, and slow to import

    identity = folder / WANDB
    if not identity.exists():
        with atomic_file(identity, "w") as file:
            json.dump({"id": secrets.token_hex(4)}, file)
    project = os.environ.get("WANDB_PROJECT", project)
    name = json_files.read(identity, _Identity)["id"]
    watched = wandb.Settings(x_stats_pid=os.getppid())  # whose memory and processor time it shows
    return wandb.init(
        project=project, id=name, resume="allow", dir=folder, config=dict(run_config), settings=watched
    )


def _show_all(run: Any, messages: Iterable[str]) -> None:
    """Show each step's metrics once, and what belongs to the step shown last; wandb takes no earlier ones."""
    shown, kind = int(run.step) - 1, ""  # run.step is the step that comes next
    for line in messages:
        kind, step, values = json.loads(line)
        if kind == "pictures":
            values = {name: _picture(path) for name, path in values.items()}
        if (kind == "metrics" and step > shown) or (kind in ("beside", "pictures") and step == shown):
            run.log(values, step=step)
            shown = step
    run.finish(exit_code=0 if kind == "end" else 1)  # the run's process was killed, or failed


def _picture(path: str) -> Any:
    """Return a file as wandb shows it."""
    import wandb

    return wandb.Image(path) if path.endswith(".png") else wandb.Video(path, format="mp4")


def _end_after(run_process: int) -> None:
    """End this process, stuck or not, some time after the run's is gone."""
    while os.getppid() == run_process:
        time.sleep(1)
    time.sleep(FINISH_S)
    os._exit(1)


if __name__ == "__main__":
    if status := main(Path(sys.argv[1]), sys.argv[2], sys.stdin):
        os._exit(status)  # wandb would wait at exit for what has just failed
