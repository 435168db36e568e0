"""The job `export` on a run that was really trained. Run: pytest tests/tools/test_export.py"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import longtake
from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.reconstruct import reconstruct
from core.checkpoint.store import CheckpointStore
from core.checkpoint.weights import load_weights, open_stored
from core.config.loading import from_dict
from core.config.yaml_files import read_inline, read_yaml
from core.errors import UserError
from core.files import sha256_file
from launch import cli
from models.denoisers.dit import DiT, DiTConfig
from tests.integration.tiny_run import command, finish, make_autoencoder, make_latents
from tools.export.job import Config, plan
from tools.runs.loaded_run import open_run
from tools.runs.samples import Samples

pytestmark = pytest.mark.multiprocess  # the run is trained by a process of its own
FIELDS = ("trainer.steps=6", "trainer.save_every=3", "ema.power_widths=[0.05,0.1]", "ema.snapshot_every=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_autoencoder(folder / "autoencoder")
    cache = make_latents(folder / "latents", folder / "autoencoder")
    status, output = finish(command(cache, folder / "train", *FIELDS))
    assert status == 0, output
    return folder / "train"


def test_what_is_exported_is_plain_and_whole(run: Path, tmp_path: Path) -> None:
    for which in ("ema", "raw", "sigma-0.05"):
        assert cli.main(["export", str(run), f"output={tmp_path / which}", f"weights={which}"]) == 0
        state = load_file(tmp_path / which / "model.safetensors")
        expected = load_weights(run, which)
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in state)
        DiT(from_dict(DiTConfig, read_yaml(tmp_path / which / "config.yaml")["model"])).load_state_dict(state)
        record = json.loads((tmp_path / which / "export.json").read_text())
        assert (record["step"], record["updates"], record["weights"]) == (6, 6, which)
        written = [path for path in (tmp_path / which).rglob("*.*") if path.name != "export.json"]
        assert record["files"] == {
            str(path.relative_to(tmp_path / which)): {
                "size": path.stat().st_size,
                "sha256": sha256_file(path),
            }
            for path in written
        }
    raw, average = (load_file(tmp_path / which / "model.safetensors") for which in ("raw", "ema"))
    assert any(not torch.equal(raw[name], average[name]) for name in raw)


def test_weights_are_read_by_ranges_from_run_and_export(run: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(run), f"output={tmp_path / 'out'}", "dtype=bf16"]) == 0
    newest = CheckpointStore(run / "checkpoints").latest()
    assert newest is not None
    for place in (newest, tmp_path / "out"):
        stored, whole = open_stored(place, "ema", ""), load_weights(place, "ema")
        assert set(stored) == set(whole)
        for name, tensor in whole.items():
            assert torch.equal(stored[name], tensor)
            count = tensor.numel()
            for start, stop in ((0, count), (count // 3, count // 3 + count // 2), (count, count)):
                assert torch.equal(stored.part(name, start, stop), tensor.flatten()[start:stop].float())


def test_an_average_of_another_length(run: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(run), f"output={tmp_path / 'out'}", "ema_sigma=0.08", "dtype=bf16"]) == 0
    newest = CheckpointStore(run / "checkpoints").latest()
    assert newest is not None
    state = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in reconstruct(run, newest, 0.08).weights.items():
        assert torch.equal(state[name], tensor.bfloat16())
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (record["weights"], record["dtype"], record["snapshots"]) == ("sigma=0.08", "bf16", 6)


def test_an_export_is_opened_in_place_of_its_run(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    assert cli.main(["export", str(run), f"output={tmp_path / 'out'}"]) == 0
    (tmp_path / "out").rename(moved)
    exported, trained = (open_run(folder, "", "ema", torch.device("cpu")) for folder in (moved, run))
    assert exported.weights_sha256 == trained.weights_sha256
    assert exported.space == trained.space
    assert (exported.checkpoint, exported.weights) == (trained.checkpoint, "ema")
    with pytest.raises(UserError, match="weights=raw: expected ema, for the ema that"):
        open_run(moved, "", "raw", torch.device("cpu"))
    with pytest.raises(UserError, match=r"checkpoint=step-8: expected '', since .* is an export"):
        open_run(moved, "step-8", "ema", torch.device("cpu"))
    with pytest.raises(UserError, match="this is an export already"):
        plan(Config(source=str(moved), output=str(tmp_path / "again")))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["weights=raw", "dtype=bf16"], "raw weights, in bf16"),
        ([], "average with decay 0.9999, in fp32"),
        (["weights=sigma-0.05"], "average of relative length 0.05, in fp32"),
        (["ema_sigma=0.08"], "average of relative length 0.08, in fp32, found from 6 copies to"),
    ],
)
def test_an_export_is_inspected(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], what: str
) -> None:
    assert cli.main(["export", str(run), f"output={tmp_path / 'out'}", *words]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"export of the {what}")
    assert lines[2].startswith("step 6, 6 updates, of checkpoint step-00000006.")
    assert lines[-1] == "every file is as it was written"


@pytest.mark.parametrize("harm", ["a bit", "cut", "record", "no record"])
def test_a_damaged_export_is_refused(run: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "out"
    assert cli.main(["export", str(run), f"output={folder}"]) == 0
    file, record = folder / "model.safetensors", folder / "export.json"
    data = file.read_bytes()
    if harm == "a bit":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "cut":
        file.write_bytes(data[:-1])
    elif harm == "record":
        record.write_text("{")
    else:
        record.unlink()
    named = {"a bit": "SHA-256", "cut": "has .* bytes, export.json says"}.get(harm, "export.json")
    with pytest.raises(DamagedCheckpoint, match=named):
        load_weights(folder)


def test_nothing_is_overwritten_by_accident(run: Path, tmp_path: Path) -> None:
    words = ["export", str(run), f"output={tmp_path / 'out'}"]
    assert [cli.main(words), cli.main(words), cli.main([*words, "overwrite=true", "weights=raw"])] == [
        0,
        2,
        0,
    ]
    assert json.loads((tmp_path / "out" / "export.json").read_text())["weights"] == "raw"
    (tmp_path / "foreign").mkdir()
    assert cli.main(["export", str(run), f"output={tmp_path / 'foreign'}", "overwrite=true"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "out"]


def test_a_damaged_checkpoint_leaves_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    newest = CheckpointStore(copy / "checkpoints").latest()
    assert newest is not None
    (newest / "rank-00000.safetensors").write_bytes(b"")
    assert cli.main(["export", str(copy), f"output={tmp_path / 'out'}"]) == 1
    assert "rank-00000.safetensors has 0 bytes" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_what_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source=.*: expected the folder of a training run"):
        plan(Config(source=str(tmp_path), output=str(tmp_path / "out")))
    with pytest.raises(UserError, match=r"weights=raw: expected ema with ema_sigma"):
        Config(source="x", output="y", weights="raw", ema_sigma=0.08)
    words = ["export", str(run), f"output={tmp_path / 'out'}", "weights=0.5"]
    assert [cli.main(words), cli.main([*words, "--dry-run"])] == [2, 2]
    assert plan(Config(source=str(run), output="y", ema_sigma=0.08))[0].startswith("write the average")


def test_an_average_is_sampled_by_its_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(name: str, *words: str) -> int:
        fields = ["count=1", "device=cpu", "sampler.steps=1", *words]
        return cli.main(["sample", f"source={run}", f"output={tmp_path / name}", *fields])

    assert [draw("usual"), draw("named", "weights=sigma-0.05")] == [0, 0]
    usual, named = (Samples.read(tmp_path / name).record for name in ("usual", "named"))
    assert (usual["weights"], named["weights"]) == ("ema", "sigma-0.05")
    assert usual["weights_sha256"] != named["weights_sha256"]
    capsys.readouterr()
    for words in (("weights=0.5",), ("weights=0.5", "--dry-run")):
        assert draw("refused", *words) == 2
        said = capsys.readouterr().err
        assert "weights=0.5: expected one of raw, ema, 0.9999, sigma-0.05, sigma-0.1, which step-" in said
    assert not (tmp_path / "refused").exists()


def test_large_weights_are_cut_into_files_that_open_as_before(run: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert cli.main(["export", str(run), f"output={whole}", "ema_sigma=0.08"]) == 0
    assert cli.main(["export", str(run), f"output={cut}", "ema_sigma=0.08", "largest_file=20000"]) == 0
    index = json.loads((cut / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 2
    expected = load_file(whole / "model.safetensors")
    assert expected.keys() == index.keys()
    for name, file in index.items():
        assert torch.equal(load_file(cut / file)[name], expected[name])
    one, other = (open_run(folder, "", "ema", torch.device("cpu")) for folder in (whole, cut))
    assert one.weights_sha256 == other.weights_sha256
    shard = cut / min(index.values())
    assert cli.main(["inspect", str(shard)]) == 0
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamagedCheckpoint, match="of-0000"):
        open_run(cut, "", "ema", torch.device("cpu"))


def scores(folder: Path, **subject: object) -> str:
    folder.mkdir()
    ruler = {"extractor": "a|b", "samples": {"images": {"count": 64}}}
    content = {"fid": 12.25, "fid_interval": 0.5, "ruler": ruler, "subject": subject}
    (folder / "scores.json").write_text(json.dumps(content))
    return str(folder)


def test_a_card_is_filled_from_the_records(run: Path, tmp_path: Path) -> None:
    newest = CheckpointStore(run / "checkpoints").latest()
    assert newest is not None
    scored = scores(tmp_path / "scores", checkpoint=newest.name, weights="ema", seed=3)
    words = ["card.licence=Apache-2.0", f"card.scores=[{scored}]"]
    assert cli.main(["export", str(run), f"output={tmp_path / 'out'}", *words]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    state = json.loads((newest / "state.json").read_text())
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert state["identity"]["data"] in text
    assert f"ema of checkpoint {newest.name}" in text.replace("\\", "")
    for line in ("| fid | 12.25 |", "| fid\\_interval | 0.5 |", "| extractor | a\\|b |", "| seed | 3 |"):
        assert line in text
    assert "| samples.images.count | 64 |" in text
    recipe = read_yaml_text(text.partition("```yaml\n")[2].partition("```")[0])
    config = read_yaml(run / "config.yaml")
    assert recipe["optimizer"]["lr"] == config["optimizer"]["lr"]
    assert recipe["trainer"]["steps"] == 6
    assert str(run) not in text  # no place of this machine
    assert "README.md" in json.loads((tmp_path / "out" / "export.json").read_text())["files"]


def read_yaml_text(text: str) -> dict[str, dict[str, object]]:
    found = read_inline(text)
    assert isinstance(found, dict)
    return found


def test_a_card_without_more_says_so(run: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(run), f"output={tmp_path / 'out'}"]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "license: unknown" in text
    assert "none was given" in text
    assert "## Scores\n\nNone were given." in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["card.licence=a b"], "card.licence=a b: expected an identifier"),
        (["card.scores=[nowhere]"], "card.scores=nowhere: expected a folder with scores.json"),
        (["format=diffusers", "dtype=bf16"], "dtype=bf16: expected fp32 with format=diffusers"),
    ],
)
def test_what_a_card_or_form_cannot_be_is_refused(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    assert cli.main(["export", str(run), f"output={tmp_path / 'out'}", *words]) == 2
    assert expected in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_no_dit_pipeline_gets_a_pipeline_of_its_own(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "out"
    assert cli.main(["export", str(run), f"output={folder}", "format=diffusers"]) == 0
    assert "no DiTPipeline (" in capfd.readouterr().err
    assert "custom_pipeline=FOLDER" in (folder / "README.md").read_text()
    listed = json.loads((folder / "export.json").read_text())["files"]
    assert {"pipeline.py", "model_index.json"} <= listed.keys()
    opened = {"custom_pipeline": str(folder), "trust_remote_code": True}  # the code in the folder runs
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **opened)
    settings = {"count": 3, "seed": 5, "sampler": {"steps": 2}, "device": "cpu"}
    images = pipeline(**settings).images
    assert (images == longtake.open_run(run).sample(**settings).pixels).all()


def test_scores_of_other_weights_are_refused(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scored = scores(tmp_path / "scores", checkpoint="step-00000001.0", weights="ema")
    assert cli.main(["export", str(run), f"output={tmp_path / 'out'}", f"card.scores=[{scored}]"]) == 2
    assert "expected scores of step-00000006." in capfd.readouterr().err
