"""Read files and overrides into typed configs: accepted values, refused ones, and the messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import loading
from core.config.settings import REQUIRED, setting
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Engine:
    zero_stage: Literal[0, 1, 2, 3] = setting(1, "ZeRO stage")
    precision: Literal["bf16", "fp32"] = setting("bf16", "number format")
    clip: float | None = setting(1.0, "largest gradient norm", low=0)
    micro_batch: int = setting(0, "samples a rank takes at once", unit="samples", low=0, high=64)

    def __post_init__(self) -> None:
        if self.precision == "fp32" and self.zero_stage == 3:
            raise UserError("zero_stage", self.zero_stage, "0, 1 or 2 with precision=fp32")
        if self.micro_batch == 13:
            raise UserError("13 is an unlucky number")


@dataclass(frozen=True, kw_only=True)
class Model:
    presets: ClassVar[Mapping[str, Model]] = {}
    preset: str = setting("", "start from this preset")
    width: int = setting(8, "channels")
    depth: int = setting(2, "blocks")
    patch: tuple[int, int, int] = setting((1, 2, 2), "patch size", unit="latent pixels", low=1)


Model.presets = {"S/2": Model(width=384, depth=12), "B/2": Model(width=768, depth=12)}


@dataclass(frozen=True, kw_only=True)
class Job:
    source: Path = setting(REQUIRED, "what is read")
    name: str = setting("run", "name of the run")
    tag: str | None = setting(None, "a word for the log")
    steps: int = setting(100, "optimizer steps", low=1)
    rate: float = setting(0.1, "learning rate")
    shuffle: bool = setting(True, "shuffle")
    sizes: tuple[int, ...] = setting((), "sizes")
    texts: tuple[str, ...] = setting((), "texts")
    places: tuple[str, ...] = setting((), "places", shown="[path or URL, ...]")
    folder: str = setting("", "a folder", shown="path")
    table: tuple[tuple[int, int], ...] = setting(((8, 8),), "shapes")
    engine: Engine = setting(Engine(), "the engine")
    model: Model = setting(Model(), "the network")


# Five lines that stand for 10^5 values and more.
BOMB = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}' if before else '1'] * 11)}]\n"
    for before, name in zip(["", *"abcd"], "abcde", strict=True)
)


def read(*overrides: str, text: str | None = None, folder: Path | None = None) -> Job:
    files = []
    if text is not None and folder is not None:
        files = [folder / "job.yaml"]
        files[0].write_text(text)
    return loading.load(Job, files, ["source=x", *overrides])


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("name=no", "name", "no"),
        ("name=007", "name", "007"),
        ("name=1e6", "name", "1e6"),
        ("name=null", "name", "null"),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ("name=${oc.env:HOME} ${", "name", "${oc.env:HOME} ${"),
        ("tag=null", "tag", None),
        ("tag=no", "tag", "no"),
        ("steps=1e6", "steps", 1_000_000),
        ("steps=2.0", "steps", 2),
        ("rate=3", "rate", 3.0),
        ("rate=1e-4", "rate", 1e-4),
        ("shuffle=no", "shuffle", False),
        ("shuffle=Yes", "shuffle", True),
        ("shuffle=false", "shuffle", False),
        ("sizes=[1,2]", "sizes", (1, 2)),
        ("sizes=1, 2", "sizes", (1, 2)),
        ("sizes=7", "sizes", (7,)),
        ("sizes=[]", "sizes", ()),
        ("sizes=", "sizes", ()),
        ("table=[[1,2],[3,4]]", "table", ((1, 2), (3, 4))),
        ("table=[1,2],[3,4]", "table", ((1, 2), (3, 4))),
        ("table=[[1,2]]", "table", ((1, 2),)),
        ("source=a/b", "source", Path("a/b")),
    ],
)
def test_override_is_read_by_the_type_of_its_field(override: str, field: str, value: object) -> None:
    got = getattr(read(override), field)
    assert got == value
    assert type(got) is type(value) or isinstance(got, Path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=1.5", "steps=1.5: expected an integer, at least 1"),
        ("steps=0", "steps=0: expected an integer, at least 1"),
        ("steps=ten", "steps=ten: expected an integer, at least 1"),
        ("steps=inf", "steps=inf: expected an integer, at least 1"),
        ("steps=true", "steps=true: expected an integer, at least 1"),
        ("rate=nan", "rate=nan: expected a finite number"),
        ("shuffle=maybe", "shuffle=maybe: expected true or false"),
        ("sizes=[1,x]", "sizes[1]=x: expected an integer"),
        ("source=", "source=: expected a path"),
        ("engine.zero_stage=4", "engine.zero_stage=4: expected 0, 1, 2 or 3"),
        ("engine.zero_stage=2.0", "engine.zero_stage=2.0: expected 0, 1, 2 or 3"),
        ("engine.precision=fp16", "engine.precision=fp16: expected bf16 or fp32"),
        ("engine.micro_batch=65", "engine.micro_batch=65: expected an integer from 0 to 64"),
        ("engine.clip=-1", "engine.clip=-1: expected a finite number, at least 0, or null"),
        ("model.patch=[1,2]", "model.patch=[1,2]: expected a list of 3, each an integer, at least 1"),
        ("model.patch=[1,2,0]", "model.patch[2]=0: expected an integer, at least 1"),
        ("model.preset=XXL", "model.preset=XXL: expected S/2 or B/2"),
        ("model=S/2", "model=S/2: a section; set its fields, such as model.preset=..."),
        ("stesp=3", "stesp: no such field; the nearest is steps"),
        ("engine.zero_stag=3", "engine.zero_stag: no such field; the nearest is engine.zero_stage"),
        ("zero_stage=3", "zero_stage: no such field; the nearest is engine.zero_stage"),
        ("steps.x=3", "steps.x: no such field; steps holds one value"),
        ("steps", "steps: expected field=value"),
        ("=3", "=3: expected field=value"),
    ],
)
def test_refused_override_names_field_value_and_what_is_accepted(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(override)
    assert str(caught.value) == message


def test_missing_required_field_is_named() -> None:
    with pytest.raises(UserError, match=r"^source: required but not given: what is read$"):
        loading.load(Job)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("steps: 1e6", "steps", 1_000_000),
        ("steps: '20'", "steps", 20),
        ("name: 'no'", "name", "no"),
        ("name: '007'", "name", "007"),
        ("tag: null", "tag", None),
        ("tag: 'null'", "tag", "null"),
        ("shuffle: off", "shuffle", False),
        ("sizes: [1, 2]", "sizes", (1, 2)),
        ("name: ${engine.precision}\nengine: {precision: fp32}", "name", "fp32"),
        ("", "steps", 100),
    ],
)
def test_value_in_a_file(tmp_path: Path, text: str, field: str, value: object) -> None:
    assert getattr(read(text=text, folder=tmp_path), field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: no", "name=False: expected text (in a file, quote it) (in {file})"),
        ("name: 007", "name=7: expected text (in a file, quote it) (in {file})"),
        ("name:", "name=None: expected text (in a file, quote it) (in {file})"),
        ("steps: 1.5", "steps=1.5: expected an integer, at least 1 (in {file})"),
        ("steps: true", "steps=True: expected an integer, at least 1 (in {file})"),
        ("engine: {zero_stage: 4}", "engine.zero_stage=4: expected 0, 1, 2 or 3 (in {file})"),
        ("engine: {zero_stage: true}", "engine.zero_stage=True: expected 0, 1, 2 or 3 (in {file})"),
        ("engine: 3", "engine=3: a section; set its fields, such as engine.zero_stage=... (in {file})"),
        ("sizes: 3", "sizes=3: expected a list, each an integer (in {file})"),
        ("sizes: {a: 3}", "sizes.a: no such field; sizes holds one value (in {file})"),
        ("stesp: 3", "stesp: no such field; the nearest is steps (in {file})"),
        ("7: 3", "7: no such field; the nearest is "),
        ("steps: }", "{file}:1: not valid YAML: "),
        ("steps: 1\nsteps: 2", "{file}:2: not valid YAML: found duplicate key steps"),
        (
            "steps: !!python/object:os.system x",
            "{file}: not a valid config file: tags are not read: !!python/object",
        ),
        ("name: x\nsteps: !!int abc", "{file}: not a valid config file: tags are not read: !!int"),
        ("steps: !!timestamp abc", "{file}: not a valid config file: tags are not read: !!timestamp"),
        ("steps: !own 1", "{file}: not a valid config file: tags are not read: !own"),
        ("steps: 0x_", "{file}: not a valid config file: invalid literal for int()"),
        (f"steps: {'9' * 5000}", "{file}: not a valid config file: Exceeds the limit"),
        ('name: "\\ud800"', "{file}:1: not valid YAML: found invalid Unicode character"),
        ("null: 1", "{file}: not a valid config file: Incompatible key type"),
        ("sizes: &a [*a]", "{file}: not a valid config file: *a stands before the end of &a"),
        (BOMB, "{file}: not a valid config file: more than 131072 values"),
        ("- 1", "{file}: expected fields (name: value) at the top"),
        ("hello", "{file}: expected fields (name: value) at the top"),
        ("3", "{file}: "),
        ("name: ${nothing}", "{file}: not a valid config file: Interpolation key 'nothing' not found"),
        ("name: ${", "{file}: not a valid config file: "),
    ],
)
def test_refused_file_is_named_with_the_mistake(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(text=text, folder=tmp_path)
    assert str(caught.value).startswith(message.format(file=tmp_path / "job.yaml"))
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: '\xff'")
    (tmp_path / "nul.yaml").write_bytes(b"name: '\x00'")
    (tmp_path / "folder.yaml").mkdir()
    for name, message in {
        "none.yaml": "no such file",
        "folder.yaml": "a folder, where a YAML file is expected",
        "latin.yaml": "not UTF-8 text",
        "nul.yaml": "not a valid config file: ",
    }.items():
        with pytest.raises(UserError) as caught:
            loading.load(Job, [tmp_path / name])
        assert str(caught.value).startswith(f"{tmp_path / name}: {message}")


def test_later_files_and_overrides_win(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("steps: 1\nrate: 1.0\nengine: {zero_stage: 2, micro_batch: 4}\nsizes: [1, 2, 3]")
    second.write_text("steps: 2\nengine: {zero_stage: 3}\nsizes: [9]")
    job = loading.load(Job, [first, second], ["source=x", "steps=3", "steps=4"])
    assert (job.steps, job.rate, job.sizes) == (4, 1.0, (9,))
    assert (job.engine.zero_stage, job.engine.micro_batch) == (3, 4)


def test_two_files_of_a_section_may_not_contradict_each_other(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in {"small": "width: 8\n  depth: 2", "large": "width: 16", "deep": "depth: 2"}.items():
        (folder / f"{name}.yaml").write_text(f"model:\n  {text}\n")
    small, large, deep = (folder / f"{name}.yaml" for name in ("small", "large", "deep"))
    with pytest.raises(
        UserError, match=r"model.width=16: expected one file of the section model, and .*small"
    ):
        loading.load(Job, [small, large], ["source=x"])
    assert loading.load(Job, [small, deep], ["source=x"]).model.depth == 2
    other = tmp_path / "large.yaml"
    other.write_text(large.read_text())
    assert (
        loading.load(Job, [small, other], ["source=x"]).model.width == 16
    )  # of no section's folder: it wins


def test_last_named_preset_is_the_base_below_everything(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: {depth: 3, preset: S/2}")
    assert loading.load(Job, [file], ["source=x"]).model == Model(preset="S/2", width=384, depth=3)
    assert loading.load(Job, [file], ["source=x", "model.preset=B/2"]).model.width == 768
    assert loading.load(Job, [file], ["source=x", "model.preset="]).model == Model(depth=3)


def test_refusals_across_fields_carry_the_path_of_their_section() -> None:
    with pytest.raises(UserError, match=r"^engine\.zero_stage=3: expected 0, 1 or 2 with precision=fp32$"):
        read("engine.zero_stage=3", "engine.precision=fp32")
    with pytest.raises(UserError, match=r"^engine: 13 is an unlucky number$"):
        read("engine.micro_batch=13")


words = st.text(st.sampled_from("ab no017.-:#'\"{}[]$\\\n~&*!é"), max_size=12) | st.sampled_from(
    ["no", "007", "1e6", "null", "${", "${x}", "\\${x}", "2024-01-01", "1:30", "0x1F"]
)


@settings(max_examples=40)
@given(
    name=words.filter(lambda word: word != REQUIRED),
    tag=st.none() | words.filter(lambda word: word != REQUIRED),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    steps=st.integers(1, 2**60),
    sizes=st.lists(st.integers(), max_size=3),
)
def test_dump_and_to_dict_are_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    tag: str | None,
    rate: float,
    steps: int,
    sizes: list[int],
) -> None:
    job = Job(source=Path("a b"), name=name, tag=tag, rate=rate, steps=steps, sizes=tuple(sizes))
    file = tmp_path_factory.getbasetemp() / "round.yaml"
    file.write_text(loading.dump(job), encoding="utf-8", newline="")
    assert loading.load(Job, [file]) == job
    assert loading.from_dict(Job, loading.to_dict(job)) == job


def test_to_dict_holds_only_what_json_holds() -> None:
    values = loading.to_dict(read("model.preset=S/2"))
    assert values["source"] == "x"
    assert values["model"] == {"preset": "S/2", "width": 384, "depth": 12, "patch": [1, 2, 2]}
    assert values["table"] == [[8, 8]]


def test_save_publishes_what_load_reads(tmp_path: Path) -> None:
    job = read("steps=7")
    loading.save(job, tmp_path / "deep" / "config.yaml")
    assert loading.load(Job, [tmp_path / "deep" / "config.yaml"]) == job


def test_describe_lists_every_field_with_type_default_unit_and_meaning() -> None:
    lines = {line.path: line for line in loading.describe(Job)}
    assert lines["source"] == loading.FieldHelp("source", "path", "required", "", "what is read")
    assert lines["engine"] == loading.FieldHelp("engine", "section", "", "", "the engine")
    assert lines["engine.zero_stage"].type == "0|1|2|3"
    assert lines["engine.clip"].type == "number >= 0|null"
    assert lines["engine.micro_batch"].type == "int 0..64"
    assert lines["engine.micro_batch"].unit == "samples"
    assert lines["model.preset"].type == "''|S/2|B/2"
    assert lines["model.patch"].type == "(int >= 1, int >= 1, int >= 1)"
    assert lines["sizes"].type == "[int, ...]"
    assert (lines["shuffle"].default, lines["tag"].default, lines["tag"].type) == (
        "true",
        "null",
        "text|null",
    )
    assert list(lines)[:2] == ["source", "name"]


def test_difference_names_the_leaves_that_differ() -> None:
    a, b = loading.to_dict(read()), loading.to_dict(read("steps=3", "engine.zero_stage=2"))
    assert loading.difference(a, b) == [("steps", 100, 3), ("engine.zero_stage", 1, 2)]
    assert loading.difference({"a": {"x": 1}}, {"b": 2}) == [("a.x", 1, None), ("b", None, 2)]
    assert loading.difference(a, a) == []


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        ("[a fox, a cat]", ("a fox", "a cat")),
        ('["a fox, running", a cat]', ("a fox, running", "a cat")),
        ("['a fox [2], running']", ("a fox [2], running",)),
        ('"a fox, running",cat', ("a fox, running", "cat")),
        ('["the \\"fox\\", running"]', ('the "fox", running',)),
        ("[it's a fox, a cat]", ("it's a fox", "a cat")),
        ("a fox", ("a fox",)),
        ("fox,cat", ("fox", "cat")),
    ],
)
def test_an_item_in_quotes_keeps_its_commas(typed: str, texts: tuple[str, ...]) -> None:
    assert read("source=x", f"texts={typed}").texts == texts


@pytest.mark.parametrize("typed", ['["a fox, running]', '["a fox" running]', "['a', \"b]"])
def test_a_quote_that_is_not_closed_is_refused(typed: str) -> None:
    with pytest.raises(UserError, match=r"texts=.*a quote that starts an item ends it"):
        read("source=x", f"texts={typed}")


def test_a_sentence_with_a_comma_is_not_cut_in_two() -> None:
    with pytest.raises(UserError, match=r"texts='\[\"a fox, running\"\]' for one text"):
        read("source=x", "texts=a fox, running")


def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    job = read("source=~/a", "folder=~/b", "places=[~/c,s3://d/~e]", "name=~/f")
    assert (job.source, job.folder) == (Path("/home/x/a"), "/home/x/b")
    assert (job.places, job.name) == (("/home/x/c", "s3://d/~e"), "~/f")
    with pytest.raises(UserError, match=r"folder=~nobody-of-this-name/x: expected a path; no such user"):
        read("source=x", "folder=~nobody-of-this-name/x")


def test_a_list_of_texts_that_is_typed_several_times_is_all_of_them() -> None:
    """Each is one text, whatever is in it; elsewhere the last one counts, as ever."""

    @dataclass(frozen=True, kw_only=True)
    class Asked:
        texts: tuple[str, ...] = setting((), "texts", repeats=True)
        names: tuple[str, ...] = setting((), "names")

    words = ["texts=a disc, on black", "names=a", "texts='quoted, too'", "names=b", "texts=it's [so]"]
    found = loading.load(Asked, overrides=words)
    assert found.texts == ("a disc, on black", "quoted, too", "it's [so]")
    assert found.names == ("b",)
    assert loading.load(Asked, overrides=["texts=[a, b]"]).texts == ("a", "b")
    with pytest.raises(UserError, match=r"for one text, or"):
        loading.load(Asked, overrides=["texts=a disc, on black"])
    with pytest.raises(UserError, match=r"texts=\[a, b\]: expected one list, or one text each time"):
        loading.load(Asked, overrides=["texts=[a, b]", "texts=c"])
