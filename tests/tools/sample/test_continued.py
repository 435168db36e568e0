"""A sampling job that was killed goes on with what it was begun with, or is refused; it never mixes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.checkpoint import exported
from core.diffusion.sampling import SamplerConfig
from core.errors import UserError, WorkError
from core.files import sealed, write_json
from core.run.ending import end_with
from core.run.folder import EXPORT, EXPORTED_WEIGHTS
from launch import local
from models.autoencoder import kl, store
from models.denoisers.dit import DiT
from tests.core.ranks import run_ranks
from tests.tools.made_runs import MODEL, make_run
from tools.runs import loaded_run
from tools.runs.samples import Samples
from tools.sample import batches
from tools.sample import job as sample
from tools.sample import parts as sample_parts
from tools.sample.parts import DamagedPart, Decoded, Parts
from tools.sample.record import describing

FIRST, SECOND = "step-00000007.0", "step-00000009.0"


def weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: 0.2 * torch.randn(t.shape, generator=generator) for n, t in DiT(MODEL).state_dict().items()}


def weights_of(checkpoint: Path, which: str) -> dict[str, Tensor]:
    return weights(int(checkpoint.name.partition(".")[0][-2:]))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a run whose weights depend on the checkpoint."""
    folder = make_run(tmp_path / "run", monkeypatch)
    monkeypatch.setattr(loaded_run, "load_weights", weights_of)
    return folder


def train_on(run: Path) -> None:
    write_json(run / "checkpoints" / SECOND / "manifest.json", {"number": 2})


def config(run: Path, name: str, **fields: Any) -> sample.Config:
    more = {"count": 7, "batch": 2, "sampler": SamplerConfig(steps=2), **fields}
    return sample.Config(source=str(run), output=str(run.parent / name), **more)


def draw(run: Path, name: str, **fields: Any) -> np.ndarray:
    sample.run(config(run, name, **fields))
    return Samples.read(run.parent / name).load()[0]


def kill(run: Path, name: str, monkeypatch: pytest.MonkeyPatch, after: int = 2, **fields: Any) -> Path:
    """Leave the output as a kill does after some batches; returns its folder of parts."""
    generate, made = batches.make_latents, []

    def stop(*arguments: Any) -> Tensor:
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(arguments)
        return generate(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(batches, "make_latents", stop)
        with pytest.raises(KeyboardInterrupt):
            draw(run, name, **fields)
    return run.parent / name / "parts"


def count_batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    generate = batches.make_latents
    made: list[list[int]] = []
    monkeypatch.setattr(batches, "make_latents", lambda *a: made.append(a[2].tolist()) or generate(*a))
    return made


def test_a_job_goes_on_with_the_checkpoint_it_was_begun_with(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = draw(run, "whole")
    kill(run, "again", monkeypatch)
    train_on(run)
    made = count_batches(monkeypatch)
    again = draw(run, "again")
    assert made == [[4, 5], [6]]
    assert np.array_equal(again, whole)
    said = capfd.readouterr().err
    assert f"continues with {FIRST}, with which it was begun; the newest is now {SECOND}" in said
    record = json.loads((run.parent / "again/samples.json").read_text())
    assert record["checkpoint"] == FIRST
    assert record["made_from"] == json.loads((run.parent / "again/made_from.json").read_text())["sha256"]
    assert not np.array_equal(draw(run, "new"), whole)  # a new job takes the newest


def test_a_checkpoint_that_is_gone_ends_the_job_in_a_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(run, "again", monkeypatch)
    train_on(run)
    (run / "checkpoints" / FIRST / "manifest.json").unlink()
    with pytest.raises(UserError, match=f"checkpoint={SECOND}: expected {FIRST}, with which .*no longer"):
        draw(run, "again")
    anew = draw(run, "again", overwrite=True)
    assert np.array_equal(anew, draw(run, "new"))


def other_weights(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded_run, "load_weights", lambda path, which: weights(100))


def other_decoder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
    encoder = store.save(kl.Autoencoder(shape), run / "autoencoder")
    change_space(run, encoder=encoder)


def change_space(run: Path, **fields: Any) -> None:
    kept = json.loads((run / "latents.json").read_text())
    write_json(run / "latents.json", sealed({**kept, **fields}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (other_weights, "weights_sha256"),
        (other_decoder, "autoencoder"),
        (lambda run, _: change_space(run, mean=[0.0, 0.2, 0.3, 0.4]), r"latents.mean\[0\]"),
        (lambda run, _: change_space(run, classes=["cat", "dog", "fox"]), r"classes\[2\]"),
        (lambda run, _: change_space(run, prediction="noise"), "latents.prediction"),
        (lambda run, _: change_space(run, shapes=[[4, 1, 4, 4], [4, 1, 2, 2]]), r"shape\[2\]"),
    ],
)
def test_what_samples_depend_on_may_not_change(
    run: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None], field: str
) -> None:
    parts = kill(run, "again", monkeypatch)
    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    change(run, monkeypatch)
    with pytest.raises(UserError, match=rf"again was begun with {field}=.*; now it is .*overwrite=true"):
        draw(run, "again")
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before


def test_a_replaced_decoder_alone_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill(run, "again", monkeypatch)
    recorded = json.loads((run / "latents.json").read_text())["encoder"]
    other_decoder(run, monkeypatch)
    change_space(run, encoder=recorded)
    with pytest.raises(WorkError, match="the run was trained with"):
        draw(run, "again")


def test_another_batch_continues_with_the_same_samples(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(run, "whole")
    kill(run, "again", monkeypatch)
    made = count_batches(monkeypatch)
    again = draw(run, "again", batch=1)
    assert made == [[4], [5], [6]]
    assert np.array_equal(again[:4], whole[:4])
    assert np.abs(again.astype(int) - whole).max() <= 1


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    with np.load(path) as arrays:
        kept = dict(arrays)
    match how:
        case "cut off":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "a bit":
            middle = content.index(kept["arr_0"].tobytes()[:64]) + 9
            path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "shape":
            np.savez(path, **kept | {"arr_0": kept["arr_0"][:, :8]})
        case "type":
            np.savez(path, **kept | {"arr_0": kept["arr_0"].astype(np.int8)})
        case "origin":
            np.savez(path, **kept | {"made_from": np.array("0" * 64)})
        case "no origin":
            np.savez(path, arr_0=kept["arr_0"])


@pytest.mark.parametrize("how", ["cut off", "empty", "a bit", "shape", "type", "origin", "no origin"])
def test_a_damaged_part_is_made_anew_with_a_word(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    whole = draw(run, "whole")
    parts = kill(run, "again", monkeypatch)
    damage(parts / "part-000002-000003.npz", how)
    made = count_batches(monkeypatch)
    again = draw(run, "again")
    assert made == [[2, 3], [4, 5], [6]]
    assert np.array_equal(again, whole)
    assert "part-000002-000003.npz is not used: it " in capfd.readouterr().err


def test_files_of_an_earlier_version_are_not_taken_for_parts(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = draw(run, "whole")
    parts = kill(run, "again", monkeypatch, after=0)
    parts.mkdir()
    np.savez(parts / "part-000000.npz", arr_0=np.zeros((2, 16, 16, 3), np.uint8))
    (parts / ".tmp-0123-part-000002-000003.npz").write_bytes(b"half")
    (run.parent / "again/made_from.json").unlink()  # which it did not write
    assert np.array_equal(draw(run, "again"), whole)
    assert "part-000000.npz is not used: its name is not one" in capfd.readouterr().err


def test_a_damaged_record_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = kill(run, "again", monkeypatch)
    path = parts.parent / "made_from.json"
    for content in ("{", "[]", path.read_text().replace('"seed": 0', '"seed": 1')):
        path.write_text(content)
        with pytest.raises(WorkError, match=r"made_from\.json is damaged"):
            draw(run, "again")


def test_overlapping_parts_are_used_once_and_gaps_are_found(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts", "a" * 64, 8, (1, 1, 3))
    for rows in (range(4), range(2, 6), range(4, 7)):
        parts.write(rows, [Decoded(np.full((len(rows), 1, 1, 3), rows.start, np.uint8))])
    (tmp_path / "parts/part-000007-000008.npz").touch()  # beyond the count
    listed, foreign = parts.listed()
    assert [path.name for path in foreign] == ["part-000007-000008.npz"]
    assert sample_parts.apart(listed) == [range(4), range(4, 7)]
    assert sample_parts.missing([range(4), range(4, 7)], 8) == [range(7, 8)]
    with pytest.raises(WorkError, match=r"part-000007-000007.npz is missing"):
        list(parts.whole())
    parts.write(range(7, 8), [Decoded(np.full((1, 1, 1, 3), 7, np.uint8))])
    together = np.concatenate([pixels for _, pixels in parts.whole()])
    assert together[:, 0, 0, 0].tolist() == [0, 0, 0, 0, 4, 4, 4, 7]
    (tmp_path / "parts/part-000004-000006.npz").write_bytes(b"PK")
    with pytest.raises(DamagedPart, match="damaged"):
        parts.read(range(4, 7))
    with pytest.raises(WorkError, match=r"part-000004-000006\.npz: it is damaged .*makes it anew"):
        list(parts.whole())


def test_a_finished_job_says_whose_samples_these_are_and_sees_what_changed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    draw(run, "images")
    train_on(run)
    sample.run(config(run, "images"))
    assert f"finished before, from the ema weights of {FIRST}" in capfd.readouterr().err
    write_json(run / "checkpoints" / FIRST / "manifest.json", {"number": 3})
    with pytest.raises(UserError, match=r"was made from .*step-00000007.0 with manifest"):
        draw(run, "images")
    (run / "checkpoints" / FIRST / "manifest.json").unlink()  # what is gone is not missed
    sample.run(config(run, "images"))
    (run.parent / "images/samples.npz").write_bytes(b"PK")
    with pytest.raises(WorkError, match=r"is not the file that samples\.json tells of"):
        sample.run(config(run, "images"))


def test_a_replaced_export_is_noticed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def export(seed: int) -> None:
        record = {"checkpoint": FIRST, "weights": "ema", "average": "ema", "dtype": "fp32"}
        record |= {"step": 1, "updates": 1, "trained": []}
        for path in (run / EXPORTED_WEIGHTS, run / EXPORT):
            path.unlink(missing_ok=True)
        exported.finish(run, weights(seed), record)

    monkeypatch.setattr(loaded_run, "load_weights", lambda path, which: exported.load(path))
    export(1)
    draw(run, "finished")
    kill(run, "begun", monkeypatch)
    export(2)
    with pytest.raises(UserError, match=r"was begun with weights_sha256="):
        draw(run, "begun")
    with pytest.raises(UserError, match=r"finished was made from .* with manifest"):
        draw(run, "finished")


def draw_as_rank(run: str, name: str, most: str) -> None:
    """Run as a rank of `draw_with_two`, which kills itself before its batch number `most`, once a part is
    written.
    """
    generate, made = batches.make_latents, []

    def counted(*arguments: Any) -> Tensor:
        if len(made) == int(most):
            while not list((Path(run).parent / name / "parts").glob("part-*.npz")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        made.append(arguments)
        return generate(*arguments)

    loaded_run.load_weights = weights_of
    batches.make_latents = counted
    end_with(lambda: sample.run(config(Path(run), name, device="cpu")))


AS_RANK = "import sys; from tests.tools.sample import test_continued as t; t.draw_as_rank(*sys.argv[1:])"


def draw_with_two(run: Path, name: str, most: int = 99) -> int:
    words = [sys.executable, "-c", AS_RANK, str(run), name, str(most)]
    return local.start(words, 2, run.parent / "ranks", name)


@pytest.mark.multiprocess
def test_two_ranks_go_on_with_one_checkpoint(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    run_ranks(2, "-c", AS_RANK, str(run), "whole", "99")
    assert draw_with_two(run, "again", most=1) == 128 + signal.SIGKILL
    assert list((run.parent / "again/parts").glob("part-*.npz"))
    assert not (run.parent / "again/samples.json").exists()
    train_on(run)
    run_ranks(2, "-c", AS_RANK, str(run), "again", "99")
    whole, again = (Samples.read(run.parent / name) for name in ("whole", "again"))
    assert again.record["checkpoint"] == FIRST
    assert np.array_equal(again.load()[0], whole.load()[0])


@pytest.mark.multiprocess
def test_two_ranks_are_refused_together(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    kill(run, "again", monkeypatch, device="cpu")
    change_space(run, classes=["cat", "dog", "fox"])
    assert draw_with_two(run, "again") != 0
    assert "again was begun with classes[2]='eel'; now it is 'fox'" in capfd.readouterr().err


def test_a_job_goes_on_in_the_precision_it_was_begun_with(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On whatever device it is continued; jobs that record none were begun in fp32."""
    exact = draw(run, "exact")
    assert "precision" not in json.loads((run.parent / "exact/made_from.json").read_text())
    kill(run, "old", monkeypatch)
    settle = describing.settle_precision
    with monkeypatch.context() as on_cuda:
        on_cuda.setattr(describing, "settle_precision", lambda asked, _, fast: settle(asked, "cuda", fast))
        assert np.array_equal(draw(run, "old"), exact)
        whole = draw(run, "whole")
        kill(run, "new", monkeypatch)
    assert json.loads((run.parent / "new/made_from.json").read_text())["precision"] == "bf16"
    made = count_batches(monkeypatch)
    assert np.array_equal(draw(run, "new"), whole)
    assert made == [[4, 5], [6]]
    apart = np.abs(whole.astype(int) - exact.astype(int))
    assert 0 < apart.mean() < 1  # of 255; two steps of a network of random weights
