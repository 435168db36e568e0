"""Decoding and writing run beside the next batch, one batch behind; and latents in files. Run: pytest FILE"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.errors import UserError, WorkError
from core.files import sha256_file
from core.records import read_rows
from data.media.images import decode_image, from_tensor
from models.autoencoder.opening import open_autoencoder
from tests.tools.made_runs import make_run
from tests.tools.sample.sample_runs import BATCH, COUNT, config, content, start_worker
from tools.runs.samples import Samples
from tools.sample import batches, decoding
from tools.sample import job as sample
from tools.sample.config import FilesConfig
from tools.sample.decoding import Decoder
from tools.sample.files.file_parts import FileParts


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


def test_a_batch_is_begun_before_the_one_before_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write waits for the second batch; the third batch waits for the first write."""
    generate, write = batches.make_latents, FileParts.write
    log, second = list[str](), threading.Event()

    def generating(*arguments: Any) -> Tensor:
        log.append(f"make {arguments[2][0] // BATCH}")
        if arguments[2][0] // BATCH == 1:
            second.set()
        return generate(*arguments)

    def writing(parts: FileParts, rows: range, made: Any) -> None:
        assert second.wait(60)
        write(parts, rows, made)
        log.append(f"wrote {rows.start // BATCH}")

    monkeypatch.setattr(batches, "make_latents", generating)
    monkeypatch.setattr(FileParts, "write", writing)
    sample.run(config(run, "out", files=FilesConfig(kind="png")))
    assert log[:3] == ["make 0", "make 1", "wrote 0"]
    units = COUNT // BATCH
    for number in range(2, units):
        assert log.index(f"wrote {number - 2}") < log.index(f"make {number}")
    rows = read_rows(run.parent / "out" / "samples.jsonl")
    assert [row["index"] for row in rows] == list(range(COUNT))


def test_a_full_disk_stops_with_its_own_message_and_the_same_command_continues(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"files": FilesConfig(kind="png", latents=True)}
    sample.run(config(run, "alone", **files))
    write = FileParts.write

    def full(parts: FileParts, rows: range, made: Any) -> None:
        if rows.start == 2 * BATCH:
            raise OSError(errno.ENOSPC, "No space left on device", "000004.png")
        write(parts, rows, made)

    with monkeypatch.context() as patch:
        patch.setattr(FileParts, "write", full)
        with pytest.raises(WorkError, match="No space left on device; what is made is kept, and the same"):
            sample.run(config(run, "shared", **files))
    output = run.parent / "shared"
    assert len(list((output / "parts").iterdir())) >= 2
    assert not list((output / ".leases").glob("*.lease"))
    sample.run(config(run, "shared", **files))
    assert content(output) == content(run.parent / "alone")


@pytest.mark.multiprocess
def test_a_worker_killed_while_it_writes_changes_no_file(run: Path) -> None:
    files = {"files": FilesConfig(kind="png", latents=True)}
    sample.run(config(run, "alone", **files))
    worker = start_worker(config(run, "shared", **files), "sample.write:kill")
    worker.join()
    assert worker.exitcode == -9
    sample.run(config(run, "shared", **files))
    assert content(run.parent / "shared") == content(run.parent / "alone")


@pytest.mark.parametrize("frames", [1, 9])
def test_latents_are_those_that_the_file_was_decoded_from(run: Path, frames: int) -> None:
    files = FilesConfig(kind="png" if frames == 1 else "ffv1", latents=True, name="{class}/{index}")
    sample.run(config(run, "out", files=files, count=3, frames=frames))
    output, autoencoder = run.parent / "out", open_autoencoder(run / "autoencoder")
    wanted, _ = Samples.read(output).load()  # `evaluate` reads the folder as before
    for row, pixels in zip(read_rows(output / "samples.jsonl"), wanted, strict=True):
        assert row["latents"] == str(Path(row["file"]).with_suffix(".safetensors"))
        assert sha256_file(output / row["latents"]) == row["latents_sha256"]
        (latents,) = load_file(output / row["latents"]).values()
        assert latents.shape[0] == 4
        assert latents.dtype == torch.float32
        with torch.no_grad():
            found = from_tensor(autoencoder.decode(latents[None]))[0]
        assert np.abs((found[0] if frames == 1 else found).astype(int) - pixels).max() <= 1


def test_latents_that_changed_are_made_anew(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = {"files": FilesConfig(kind="png", latents=True)}
    sample.run(config(run, "alone", **files))
    worker = start_worker(config(run, "shared", **files), "sample.publish:kill")
    worker.join()
    (run.parent / "shared" / "000003.safetensors").write_bytes(b"")
    sample.run(config(run, "shared", **files))
    assert content(run.parent / "shared") == content(run.parent / "alone")
    assert "000003.safetensors has another SHA-256" in capfd.readouterr().err


def test_a_sample_is_made_again_with_its_latents(run: Path) -> None:
    from core.config.loading import load

    sample.run(config(run, "first", files=FilesConfig(kind="png", latents=True)))
    row = f"again={run.parent / 'first' / 'samples.jsonl'}[5]"
    sample.run(load(sample.Config, overrides=[row, f"output={run.parent / 'again'}", "device=cpu"]))
    first, again = (run.parent / name for name in ("first/000005", "again/000000"))
    ours, theirs = (load_file(f"{path}.safetensors")["latents"] for path in (first, again))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert decode_image(Path(f"{again}.png").read_bytes()).shape == (16, 16, 3)


def test_latents_need_files_of_single_samples(run: Path) -> None:
    with pytest.raises(UserError, match="latents=true: expected false with kind=npz"):
        FilesConfig(latents=True)
    long = FilesConfig(kind="png", latents=True, name="x" * 248 + "{index}")
    with pytest.raises(UserError, match="names of at most 255 bytes, not 261"):
        sample.run(config(run, "long", files=long))


class _Calls:
    """Stands for torch's streams and events; notes what is asked of them, and by which thread."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def event(self) -> Any:
        calls = self

        class Event:
            def record(self, stream: Any) -> None:
                calls.log.append(f"event on {stream}")

        return Event()

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.log.append("side begins")
        yield
        self.log.append("side ends")

    def wait_event(self, event: Any) -> None:
        self.log.append("side waits for the event")


def test_on_a_gpu_the_side_stream_waits_and_not_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _Calls()
    monkeypatch.setattr(torch.cuda, "Event", calls.event)
    monkeypatch.setattr(torch.cuda, "stream", calls.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "main")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("waits for the device"))
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: calls.log.append("memory is kept"))
    monkeypatch.setattr(decoding, "decode", lambda *_: calls.log.append("decode") or np.zeros((2, 4, 4, 3)))
    decoder = Decoder(None, None, calls)  # type: ignore[arg-type]
    made = decoder.hand_over(torch.zeros(4, 1, 1, 1, 1), 1)
    assert calls.log == ["event on main"]
    assert len(list(decoder.decoded(made, 2))) == 2
    once = ["side begins", "side waits for the event", "memory is kept", "decode", "side ends"]
    assert calls.log[1:] == [*once, *once]
