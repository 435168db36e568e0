"""Requests from files: what rows may say, what samples they make, and that noise is theirs alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.config.loading import load
from core.diffusion.sampling import SamplerConfig
from core.draws import Draws
from core.errors import UserError
from tests.tools.made_runs import make_run
from tools.runs.samples import Samples
from tools.sample import generating, preparing
from tools.sample import job as sample
from tools.sample.config import FilesConfig
from tools.sample.files.kinds import require_encodable
from tools.sample.given.config import TaskConfig
from tools.sample.prompts import Prompts
from tools.sample.requests import reading

STEPS = SamplerConfig(steps=2)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


def config(run: Path, name: str, rows: str, text: str, **fields: Any) -> sample.Config:
    (run.parent / rows).write_text(text)
    more = {"sampler": STEPS, "files": FilesConfig(kind="png"), "batch": 3, "device": "cpu", **fields}
    return sample.Config(
        source=str(run), output=str(run.parent / name), requests=str(run.parent / rows), **more
    )


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", "class,count,seed\ncat,2,\neel,1,7\n"),
        ("r.tsv", "class\tcount\tseed\ncat\t2\t\neel\t1\t7\n"),
        ("r.jsonl", '{"class": "cat", "count": 2}\n{"class": 2, "seed": 7}\n'),
        ("r.json", '[{"class": "cat", "count": 2}, {"class": "eel", "seed": 7}]'),
        ("r.yaml", "requests:\n- {class: cat, count: 2}\n- {class: eel, seed: 7}\n"),
    ],
)
def test_all_kinds_of_files_ask_for_the_same_samples(run: Path, name: str, text: str) -> None:
    sample.run(config(run, "out", name, text))
    requests = [row["request"] for row in rows_of(run.parent / "out")]
    assert [(r["class"], r["seed"], r["number"]) for r in requests] == [
        ("cat", 0, 0),
        ("cat", 0, 1),
        ("eel", 7, 0),
    ]
    pixels, labels = Samples.read(run.parent / "out").load()
    assert (pixels.shape, labels.tolist()) == ((3, 16, 16, 3), [0, 0, 2])


def test_samples_are_those_of_the_fields_and_any_row_makes_its_sample_again(run: Path) -> None:
    by_fields = sample.Config(
        source=str(run), output=str(run.parent / "fields"), count=6, seed=3, sampler=STEPS
    )
    sample.run(by_fields)
    text = "class\n" + "cat\ndog\neel\n" * 2
    sample.run(config(run, "rows", "r.csv", text, seed=3))
    wanted, _ = Samples.read(run.parent / "fields").load()
    found, _ = Samples.read(run.parent / "rows").load()
    assert np.abs(wanted.astype(int) - found).max() <= 1  # another batch: equal to rounding
    listed = run.parent / "rows/samples.jsonl"
    again = sample.Config(
        source=str(run),
        output=str(run.parent / "again"),
        requests=f"{listed}[4]",
        files=FilesConfig(kind="png"),
        sampler=SamplerConfig(steps=50),
    )
    sample.run(again)
    pixels, labels = Samples.read(run.parent / "again").load()
    assert labels.tolist() == [1]
    assert np.abs(pixels[0].astype(int) - found[4]).max() <= 1
    with pytest.raises(UserError, match=r"expected a row from 0 to 5"):
        sample.run(sample.Config(source=str(run), output=str(run.parent / "no"), requests=f"{listed}[6]"))


def test_rows_of_many_sizes_and_samplers_are_each_made_as_they_say(run: Path) -> None:
    rows_ = ("cat,16,16,2,1,5", "dog,16,24,2,1,5", "cat,16,16,3,2,5", "cat,,,,,5")
    text = "\n".join(["class,height,width,steps,guidance,seed", *rows_])
    sample.run(config(run, "many", "r.csv", text, batch=8))
    rows = rows_of(run.parent / "many")
    sizes = [(row["request"]["height"], row["request"]["width"], row["request"]["steps"]) for row in rows]
    assert sizes == [(16, 16, 2), (16, 24, 2), (16, 16, 3), (16, 16, 2)]
    assert rows[0]["sha256"] == rows[3]["sha256"] != rows[2]["sha256"]
    assert "height" not in json.loads((run.parent / "many/samples.json").read_text())
    with pytest.raises(UserError, match=r"files\.kind=npz: expected png.* since samples differ"):
        sample.run(config(run, "npz", "r.csv", text, files=FilesConfig()))
    assert not (run.parent / "npz").exists()


def test_noise_depends_on_seed_and_number_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    drawn = generating.sample

    def noted(*arguments: Any, **named: Any) -> torch.Tensor:
        seen.extend(arguments[6].normal("sample_start", tuple(arguments[1][1:])))
        return drawn(*arguments, **named)

    monkeypatch.setattr(generating, "sample", noted)
    text = "class,seed,number\ncat,5,2\ndog,5,2\ncat,6,2\ncat,5,3\n"
    sample.run(config(run, "noise", "r.csv", text, batch=4))
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[3])
    alone = Draws(6, 0, torch.tensor([2]), torch.tensor([0])).normal("sample_start", tuple(seen[0].shape))
    assert torch.equal(seen[2], alone[0])


def test_bad_rows_are_named_and_left_out_within_a_budget(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "class,height,steps\ncat,16,2\nfox,16,2\ndog,17,2\neel,16,none\ncat,,2\n"
    with pytest.raises(UserError, match=r"3 rows cannot be used: .*; row 4: steps=none: expected"):
        sample.run(config(run, "bad", "r.csv", text))
    text = text.replace("none", "2")
    with pytest.raises(UserError, match=r"2 rows cannot be used: row 2: class=fox: .*cat, dog, eel; row 3: "):
        sample.run(config(run, "bad", "r.csv", text, bad_requests=1))
    assert not (run.parent / "bad").exists()
    sample.run(config(run, "bad", "r.csv", text, bad_requests=2))
    assert [row["request"]["class"] for row in rows_of(run.parent / "bad")] == ["cat", "eel", "cat"]
    assert "2 rows left out: row 2: class=fox" in capfd.readouterr().err


def test_the_budget_is_one_for_lines_that_are_none_and_rows_that_cannot_be_made(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "class,steps\ncat,2\ndog,2,3\nfox,2\neel,none\n"
    named = r"row 2: 3 fields, where the header has 2; .*; row 3: class=fox: .*; row 4: steps=none"
    for budget in (0, 2):
        with pytest.raises(UserError, match="rows cannot be used"):
            sample.run(config(run, "bad", "r.csv", text, bad_requests=budget))
    with pytest.raises(UserError, match=f"3 rows cannot be used: {named}"):
        sample.plan(config(run, "bad", "r.csv", text, bad_requests=2))
    sample.run(config(run, "few", "r.csv", text, bad_requests=3))
    assert re.search(f"3 rows left out: {named}", capfd.readouterr().err)
    assert [row["request"]["class"] for row in rows_of(run.parent / "few")] == ["cat"]
    with pytest.raises(UserError, match="at least one request that can be used"):
        sample.run(config(run, "none", "r.csv", "class\nfox\n", bad_requests=9))
    assert not (run.parent / "none").exists()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("r.csv", "klass\ncat\n", "column 'klass' is not one of class, prompt, name"),
        ("r.csv", "class,count\ncat,-1\n", "row 1: count=-1: expected"),
        (
            "r.csv",
            "class,guidance\ncat,4\n,2\n",
            "row 2: sampler.guidance=2.0: expected 1, since samples have neither",
        ),
        ("r.csv", "class,solver\ncat,best\n", "row 1: .*solver=best"),
        ("r.jsonl", '{"class": "cat"\n', "line 1: bad row"),
        ("r.yaml", "prompts: [a]\n", "YAML with a list under `requests:`"),
        ("r.xml", "<a/>", r"\.txt \(a prompt a line\)"),
        ("r.txt", "\n", "at least one request"),
        ("r.txt", "a cat\n", "row 1: prompt=a cat: expected none, since the run was trained without text"),
        ("r.csv", "class,class\ncat,dog\n", "columns of different names; 'class' is there more than once"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(run: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        sample.run(config(run, "bad", name, text))
    assert not (run.parent / "bad").exists()


def test_a_dry_run_refuses_texts_that_the_run_refuses(run: Path) -> None:
    for fields in ({"prompts": ("a cat",)}, {"negative_prompt": "a cat"}):
        made = sample.Config(source=str(run), output=str(run.parent / "bad"), **fields)  # type: ignore[arg-type]
        for do in (sample.plan, sample.run):
            with pytest.raises(UserError, match=r"prompts?=a cat: expected none, since the run was"):
                do(made)


def test_requests_leave_no_room_for_other_fields(run: Path) -> None:
    for field, value in {"count": 5, "prompts": ("a",), "classes": ("cat",), "labels": "random"}.items():
        with pytest.raises(UserError, match=f"^{field}=.*expected nothing beside requests="):
            config(run, "bad", "r.txt", "a\n", **{field: value})


def test_a_changed_file_of_requests_is_refused_and_names_the_row(run: Path) -> None:
    sample.run(config(run, "out", "r.csv", "class\ncat\ndog\n"))
    sample.run(config(run, "out", "moved.csv", "class\ncat\ndog\n"))  # equal content elsewhere
    with pytest.raises(UserError, match=r"requests"):
        sample.run(config(run, "out", "r.csv", "class\ncat\neel\n"))


def test_random_labels_do_not_depend_on_the_count(run: Path) -> None:
    labels = []
    for count in (40, 60):
        made = sample.Config(
            source=str(run),
            output=str(run.parent / f"random-{count}"),
            count=count,
            labels="random",
            sampler=SamplerConfig(steps=1),
        )
        sample.run(made)
        labels.append(Samples.read(run.parent / f"random-{count}").load()[1].tolist())
    assert labels[0] == labels[1][:40]
    assert set(labels[1]) == {0, 1, 2}
    assert labels[1][:3] * 20 != labels[1]


def test_presets_write_what_their_packages_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", monkeypatch, text={"tokens": 1, "width": 8, "precision": "fp32"})

    def embed(texts: tuple[str, ...], *others: object) -> Prompts | None:
        return (
            Prompts(texts, torch.zeros(len(texts), 1, 8), torch.ones(len(texts), dtype=torch.int64))
            if texts
            else None
        )

    monkeypatch.setattr(preparing, "embed", embed)
    listed = [
        {"prompt_en": "a cat, asleep", "dimension": ["color"]},
        {"prompt_en": "a dog", "dimension": ["temporal_flickering"]},
        {"prompt_en": "a cat, asleep", "dimension": ["scene"]},
    ]
    films = {"frames": 9, "batch": 16, "files": FilesConfig(), "sampler": SamplerConfig(steps=1)}
    sample.run(config(run, "vbench", "v.json", json.dumps(listed), preset="vbench", **films))
    names = sorted(path.name for path in (run.parent / "vbench").glob("*.mp4"))
    assert names == sorted(
        [f"a cat, asleep-{k}.mp4" for k in range(5)] + [f"a dog-{k}.mp4" for k in range(25)]
    )
    with pytest.raises(UserError, match="row 1: neither dimension nor count: temporal_flickering takes 25"):
        sample.run(config(run, "text", "v.txt", "a cat, asleep\n", preset="vbench", **films))
    long = "x" * 240
    listed = [{"prompt_en": long, "dimension": ["Human_Anatomy"]}]
    sample.run(config(run, "vbench2", "v.json", json.dumps(listed), preset="vbench2", **films))
    assert len(list((run.parent / "vbench2/Human_Anatomy").glob(f"{'x' * 180}-?.mp4"))) == 3
    text = json.dumps([{"prompt_en": "y" * 300, "dimension": []}])
    with pytest.raises(UserError, match=r"files\.name=.*names of at most 255 bytes, not 3"):
        sample.run(config(run, "long", "v.json", text, preset="vbench", **films))
    line = '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"}'
    sample.run(config(run, "geneval", "g.jsonl", line + "\n", preset="geneval", files=FilesConfig()))
    folder = run.parent / "geneval/00000"
    assert json.loads((folder / "metadata.jsonl").read_text()) == json.loads(line)
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [f"{k:04d}.png" for k in range(4)]


def test_the_arrays_of_adm_hold_labels_and_are_numpys(run: Path) -> None:
    made = sample.Config(
        source=str(run), output=str(run.parent / "adm"), count=5, batch=2, preset="adm", sampler=STEPS
    )
    sample.run(made)
    with np.load(run.parent / "adm/samples.npz") as arrays:
        assert (arrays["arr_0"].shape, arrays["arr_0"].dtype) == ((5, 16, 16, 3), np.uint8)
        assert arrays["arr_1"].tolist() == [0, 1, 2, 0, 1]


def test_the_arrays_of_adm_are_made_in_fp32_unless_asked_otherwise(tmp_path: Path) -> None:
    def precision(*words: str) -> str:
        return load(sample.Config, overrides=["source=run", f"output={tmp_path / 'out'}", *words]).precision

    assert [precision(), precision("preset=adm")] == ["auto", "fp32"]
    assert precision("preset=adm", "precision=bf16") == "bf16"


def test_a_row_of_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_bytes("class,name\ncat,caf\u00e9\ndog,x\n".encode("latin-1"))
    found, wrong = reading.read_requests(reading.rows_of(path), path)
    assert [[each.row for each in rows] for rows in (found, wrong)] == [[2], [1]]
    with pytest.raises(UserError, match=r"1 row cannot be used: row 1: name=.*expected text in UTF-8"):
        reading.require_few(path, wrong, 0)


def test_all_rows_that_cannot_be_used_are_named_at_once(run: Path) -> None:
    rows = "class,seed\ncow,1\ncat,-1\ndog,2\n"
    with pytest.raises(UserError, match=r"2 rows cannot be used: row 1: class=cow.*; row 2: seed=-1"):
        sample.run(config(run, "wrong", "r.csv", rows))
    with pytest.raises(UserError, match="a file with at least one request"):
        sample.run(config(run, "none", "r.csv", "class,seed\n"))


@pytest.mark.parametrize(
    ("preset", "frames", "expected"),
    [
        ("adm", 9, "frames=9: expected 1 with preset=adm, which is about images"),
        ("geneval", 9, "frames=9: expected 1 with preset=geneval"),
        ("vbench", 1, "frames=1: expected more than 1 with preset=vbench, which is about films"),
    ],
)
def test_a_benchmark_is_of_images_or_of_films(run: Path, preset: str, frames: int, expected: str) -> None:
    rows = "class,count,name\ncat,1,a\n"
    known = {"preset": preset, "frames": frames}
    made = config(run, "made", "r.csv", rows, files=FilesConfig(), **known)
    if preset == "adm":
        made = replace(made, requests="")
    with pytest.raises(UserError, match=expected):
        sample.run(made)


def test_a_way_between_noises_in_several_classes_is_doubted(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"source": str(run), "sampler": STEPS, "count": 3, "task": TaskConfig(to_number=5)}
    sample.run(sample.Config(output=str(run.parent / "turns"), **known))
    assert "warning: samples between two noises have conditions in turns; one of classes alone" in (
        capsys.readouterr().err
    )
    sample.run(sample.Config(output=str(run.parent / "one"), classes=("cat",), **known))
    assert "in turns" not in capsys.readouterr().err


def test_an_encoder_that_takes_no_such_frames_is_named_beforehand() -> None:
    require_encodable("h264", None, 16, 16)
    require_encodable("png", None, 8, 8)
    with pytest.raises(
        UserError, match=r"kind=hevc: expected h264, av1, ffv1 or npz for 64 x 96 pixels: .* 66 x 66"
    ):
        require_encodable("hevc", None, 64, 96)
    with pytest.raises(UserError, match=r"kind=av1: expected h264, hevc, ffv1 or npz for 2 x 2 pixels"):
        require_encodable("av1", None, 2, 2)
