"""References in config files, by their author. Run: pytest tests/core/config/test_yaml_files.py"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config.yaml_files import HEADER, LARGEST, as_yaml, read_recorded, read_yaml
from core.errors import UserError

SECRET = "wJalrXUtnFEMI"


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("PLACE", SECRET)


def written(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    "text",
    [
        "a: ${oc.env:PLACE}",
        "a: x${oc.env:PLACE}y",
        "a: {b: [1, '${oc.env:PLACE}']}",
        "a: ${oc.decode:${oc.env:PLACE}}",
        "a: ${oc.select:nothing,${oc.env:PLACE}}",
        "b: 1\na: ${b}",
        r"a: \\${oc.env:PLACE}",
        'a: "$\\x7boc.env:PLACE}"',
        "a: &x ${oc.env:PLACE}\nb: *x",
        "a: !!str ${oc.env:PLACE}",
        "a: ${oc.env:PLACE",
    ],
)
def test_a_recorded_file_refers_to_nothing(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UserError, match=r"config\.yaml: not a valid config file") as caught:
        read_recorded(file)
    assert SECRET not in str(caught.value)
    file = written(tmp_path, f"{HEADER}train\n{text}")
    with pytest.raises(UserError, match=r"config\.yaml: not a valid config file") as caught:
        read_yaml(file)  # named on the command line, it is still a record
    assert SECRET not in str(caught.value)


def test_a_file_of_the_users_own_may_refer_to_the_environment(tmp_path: Path) -> None:
    file = written(tmp_path, "b: 3\na: ${oc.env:PLACE}/${b}\nc: ${oc.env:NOWHERE_SET, none}")
    assert read_yaml(file) == {"a": f"{SECRET}/3", "b": 3, "c": "none"}


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "wandb_api_key", "HF_TOKEN", "DB_PASSWORD", "AUTH"]
)
def test_what_would_put_a_secret_into_a_record_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(os.environ, name, SECRET)
    for text in (f"a: ${{oc.env:{name}}}", f"n: {name}\na: ${{oc.env:${{n}}}}"):
        with pytest.raises(
            UserError, match="looks like a secret, and resolved values are recorded"
        ) as caught:
            read_yaml(written(tmp_path, text))
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)


words = st.text(st.sampled_from("ab ${}\\:.'\"\n"), max_size=12)


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from("abc"), words | st.lists(words, max_size=2) | st.integers(), min_size=1)
)
def test_a_record_is_read_back_equal_by_both(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]
) -> None:
    file = written(tmp_path_factory.getbasetemp(), as_yaml(values))
    assert read_recorded(file) == values
    assert read_yaml(file) == values


def test_aliases_and_sizes_are_bounded(tmp_path: Path) -> None:
    bomb = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    for text, reason in (
        (bomb, "more than 131072 values, those that aliases"),
        ("a: &a [*a]", "&a$"),
        ("a: &a {b: {c: *a}}", "&a$"),
        ("a: *nowhere", "&nowhere$"),
        ("a: " + "[" * 100_000 + "]" * 100_000, "nested more than 100 levels deep"),
        ("a: " + "{b: " * 100_000 + "}" * 100_000, "nested more than 100 levels deep"),
        ("".join(f"{' ' * n}a:\n" for n in range(1500)), "nested more than 100 levels deep"),
        ("a: '" + "x" * LARGEST, "larger than 4194304 bytes"),
    ):
        with pytest.raises(UserError, match=reason):
            read_yaml(written(tmp_path, text))
    assert read_yaml(written(tmp_path, "a: &a [1, 2]\nb: *a\nc: [*a, *a]")) == {
        "a": [1, 2],
        "b": [1, 2],
        "c": [[1, 2], [1, 2]],
    }


def test_a_pipe_or_device_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for file in (tmp_path / "pipe.yaml", Path("/dev/zero"), Path("/dev/tty")):
        with pytest.raises(UserError, match=rf"^{file}: "):
            read_yaml(file)
