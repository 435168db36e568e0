"""Guidance in a sampling job: what samples move away from, and the nulls that must have been trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.batch import Condition
from core.diffusion.guidance.config import GuideConfig
from core.diffusion.sampling import SamplerConfig
from core.errors import UserError
from models.denoisers.dit import DiT, DiTConfig
from models.denoisers.skipping import WithoutBlocks
from tests.tools.made_runs import make_run
from tools.runs.loaded_run import LatentSpace
from tools.sample import job as sample
from tools.sample.conditions import require_trained
from tools.sample.config import FilesConfig, WeakConfig

GUIDED = SamplerConfig(steps=2, guidance=3.0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


def made(run: Path, name: str, **fields: Any) -> np.ndarray:
    output = run.parent / name
    usual = {"classes": ("cat",), "count": 2, "sampler": GUIDED, "device": "cpu"}
    sample.run(sample.Config(source=str(run), output=str(output), **{**usual, **fields}))
    with np.load(output / "samples.npz") as arrays:
        return arrays["arr_0"]


def test_a_class_to_move_away_from_is_another_guidance_and_recorded(run: Path) -> None:
    usual, negative = made(run, "usual"), made(run, "negative", negative_class="dog")
    assert not np.array_equal(usual, negative)
    assert json.loads((run.parent / "negative" / "made_from.json").read_text())["negative_class"] == "dog"
    with pytest.raises(UserError, match=r"negative_class"):
        made(run, "negative", negative_class="eel")


def test_a_row_may_move_away_from_a_class_and_its_record_makes_it_again(run: Path) -> None:
    (run.parent / "r.csv").write_text("class,negative_class,seed\ncat,,5\ncat,dog,5\n")
    files = FilesConfig(kind="png")
    output, again = run.parent / "rows", run.parent / "again"
    base = sample.Config(
        source=str(run),
        output=str(output),
        requests=str(run.parent / "r.csv"),
        sampler=GUIDED,
        files=files,
        device="cpu",
    )
    sample.run(base)
    rows = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    assert "negative_class" not in rows[0]["request"]
    assert rows[1]["request"]["negative_class"] == "dog"
    assert rows[0]["sha256"] != rows[1]["sha256"]
    sample.run(replace(base, output=str(again), requests=f"{output / 'samples.jsonl'}[1]"))
    assert json.loads((again / "samples.jsonl").read_text())["sha256"] == rows[1]["sha256"]


def test_a_class_to_move_away_from_needs_guidance(run: Path) -> None:
    with pytest.raises(UserError, match=r"negative_class has no effect without guidance"):
        made(run, "out", sampler=SamplerConfig(steps=2), negative_class="dog")


@pytest.mark.parametrize(
    ("sampler", "fields"),
    [
        (
            {"guidance_start": 0.9, "guidance_end": 0.3},
            "sampler.guidance_start=0.9, sampler.guidance_end=0.3 have",
        ),
        ({"guidance_rescale": 0.7}, "sampler.guidance_rescale=0.7 has"),
        ({"guidance_channels": 2}, "sampler.guidance_channels=2 has"),
        (
            {"guidance_kind": "apg", "guide": GuideConfig(momentum=-0.5)},
            "sampler.guidance_kind=apg, sampler.guide.momentum=-0.5 have",
        ),
        ({"guidance_kind": "cfg_zero"}, "sampler.guidance_kind=cfg_zero has"),
        ({"guidance_kind": "cfg_zero", "guide": GuideConfig(zero_steps=1)}, ""),
        ({"guidance_start": 0.9, "guidance": 2.0}, ""),
        ({"guidance_start": 0.9, "guide": GuideConfig(label=0.0)}, ""),
        ({}, ""),
    ],
)
def test_guidance_that_is_bounded_and_not_there_is_said(
    run: Path, sampler: dict[str, Any], fields: str
) -> None:
    config = sample.Config(
        source=str(run),
        output=str(run.parent / "out"),
        classes=("cat",),
        sampler=SamplerConfig(steps=2, **sampler),
    )
    said = [line for line in sample.plan(config) if "no effect" in line]
    expected = [f"warning: {fields} no effect without guidance (sampler.guidance=1)"] if fields else []
    assert said == expected


def test_rows_of_which_one_is_guided_use_what_bounds_guidance(run: Path, capsys: Any) -> None:
    for guidance, count in ((3, 0), (1, 1)):
        (run.parent / "r.csv").write_text(f"class,guidance\ncat,1\ncat,{guidance}\n")
        config = sample.Config(
            source=str(run),
            output=str(run.parent / f"rows-{guidance}"),
            requests=str(run.parent / "r.csv"),
            sampler=SamplerConfig(steps=2, guidance_start=0.9),
            files=FilesConfig(kind="png"),
            device="cpu",
        )
        sample.run(config)
        assert capsys.readouterr().err.count("sampler.guidance_start=0.9 has no effect") == count


def test_what_of_a_weaker_network_is_asked_for_needs_one() -> None:
    with pytest.raises(UserError, match=r"^weights=raw: expected ema without weak.source"):
        WeakConfig(weights="raw")
    with pytest.raises(UserError, match=r"^checkpoint=step: expected '' without weak.source"):
        WeakConfig(checkpoint="step")


def test_a_class_to_move_away_from_needs_no_trained_null(run: Path) -> None:
    space = replace(LatentSpace.read(run), null_share={"label": 0.0, "text": None})
    with pytest.raises(UserError, match="no sample of the run"):
        require_trained(space, GUIDED, ["label"])
    assert require_trained(space, GUIDED, ["label"], ["label"]) == []


def test_a_run_guides_itself_by_its_raw_weights(run: Path) -> None:
    sampler = replace(GUIDED, guidance=1.0, guide=GuideConfig(weak=2.0))
    weak = WeakConfig(source=str(run), weights="raw")
    guided = made(run, "weak", sampler=sampler, weak=weak)
    assert not np.array_equal(guided, made(run, "plain", sampler=replace(GUIDED, guidance=1.0)))
    record = json.loads((run.parent / "weak" / "made_from.json").read_text())["weak"]
    assert (record["weights"], record["checkpoint"]) == ("raw", "step-00000007.0")
    made(run, "weak", sampler=sampler, weak=weak)  # is finished, and still the same
    with pytest.raises(UserError, match=r"weak"):
        made(run, "weak", sampler=sampler, weak=replace(weak, weights="ema"))
    step, was = "step-00000007.0", r"expected '', with which \S+ was made; and"
    with pytest.raises(UserError, match=rf"weak\.source=\S+: {was} weak\.checkpoint={step}: {was} "):
        made(run, "plain", sampler=sampler, weak=replace(weak, checkpoint=step))


def test_a_weaker_network_must_be_for_the_same_latents(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_run(tmp_path / "other", monkeypatch, prediction="noise", path="ddpm_linear")
    sampler = replace(GUIDED, guide=GuideConfig(weak=2.0))
    with pytest.raises(UserError, match=r"^weak\.source=.*: expected a run like the other, with path=\w+;"):
        made(run, "weak", sampler=sampler, weak=WeakConfig(source=str(other)))
    with pytest.raises(UserError, match=r"^weak\.source=''.*: expected a folder with sampler\.guide\.weak"):
        made(run, "none", sampler=sampler)


def test_blocks_that_are_left_out_are_not_computed(run: Path) -> None:
    torch.manual_seed(0)
    model = DiT(DiTConfig(width=32, depth=3, heads=2, num_classes=3, patch=(1, 1, 1)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, time, condition = torch.randn(2, 4, 1, 2, 2), torch.tensor([500.0, 500.0]), Condition()
    calls = list[int]()
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    found = WithoutBlocks(model, [1])(x, time, condition)
    assert calls == [0, 2]
    assert len(model.blocks) == 3
    whole = model(x, time, condition)
    assert not torch.allclose(found, whole)
    kept, model.blocks[1].forward = model.blocks[1].forward, lambda x, *_: x
    torch.testing.assert_close(model(x, time, condition), found)
    model.blocks[1].forward = kept
    with pytest.raises(UserError, match=r"skip_blocks=3: expected 0 to 2"):
        WithoutBlocks(model, [3])
    guide = GuideConfig(skip=2.0, skip_blocks=(1,))  # the run's network has one block
    with pytest.raises(UserError, match=r"^sampler\.guide\.skip_blocks=1: expected 0 to 0"):
        made(run, "skip", sampler=replace(GUIDED, guide=guide))


def dropped(both: float, label: float, text: float, null: tuple[float, float]) -> dict[str, Any]:
    return {
        "null_share": dict(zip(("label", "text"), null, strict=True)),
        "dropout": {"both": both, "label": label, "text": text},
    }


def test_own_scales_need_nulls_that_were_trained(run: Path) -> None:
    read, own = LatentSpace.read(run), replace(GUIDED, guide=GuideConfig(text=7.0))
    given = ["label", "text"]
    together = replace(read, **dropped(0.1, 0, 0, (0.1, 0.1)))
    assert require_trained(together, GUIDED, given) == []
    with pytest.raises(UserError, match=r"without text alone: no sample .*text_dropout"):
        require_trained(together, own, given)
    apart = replace(read, **dropped(0.1, 0, 0.2, (0.1, 0.28)))
    assert require_trained(apart, own, given) == []
    alone = replace(read, **dropped(0, 0, 0.2, (0, 0.2)))
    with pytest.raises(UserError, match=r"no sample of the run was trained without class"):
        require_trained(alone, GUIDED, given)
    (warning,) = require_trained(replace(read, null_share={"label": 0.1, "text": 0.1}), own, given)[:1]
    assert "does not record" in warning
    with pytest.raises(UserError, match=r"guide\.text=7\.0: expected null, since samples have no prompt"):
        require_trained(apart, own, ["label"])


@pytest.mark.parametrize(("dropped_parts", "share"), [(("text",), 0.9 * 0.2), (("label", "text"), 0.1)])
def test_shares_of_what_was_trained_without(run: Path, dropped_parts: tuple[str, ...], share: float) -> None:
    space = replace(LatentSpace.read(run), **dropped(0.1, 0, 0.2, (0.1, 0.28)))
    assert space.share_without(dropped_parts) == pytest.approx(share)


def test_a_dry_run_says_and_refuses_what_further_networks_guide(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(**fields: Any) -> list[str]:
        return sample.plan(sample.Config(source=str(run), output=str(tmp_path / "out"), **fields))

    weak, blocks = GuideConfig(weak=2.0), GuideConfig(skip=2.0, skip_blocks=(7,))
    own = WeakConfig(source=str(run), weights="raw")
    (line,) = [line for line in planned(sampler=SamplerConfig(guide=weak), weak=own) if "steps of" in line]
    assert ", guidance 2 away from the weaker network, in batches of" in line
    with pytest.raises(UserError, match=r"^sampler.guide.skip_blocks=7: expected 0 to 0, the blocks"):
        planned(sampler=SamplerConfig(guide=blocks))
    other = make_run(tmp_path / "other", monkeypatch, path="edm", prediction="edm")
    with pytest.raises(UserError, match=r"^weak.source=.*: expected a run like the other, with path="):
        planned(sampler=SamplerConfig(guide=weak), weak=WeakConfig(source=str(other)))
