"""The rules of the layout notice what they forbid, and nothing else.

Run: pytest tests/test_layout_rules.py
"""

from __future__ import annotations

import ast

import pytest

from tests.test_layout import listings, parsers, takers_of_root_configs


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def plan(config: Config): ...\ndef run(config: Config): ...", set()),
        ("def a(config: Config): ...", {"a"}),
        ("def a(*, other: train.Config | None = None): ...", {"a"}),
        ("class Job:\n    config: Config", {"Job"}),
        ("def a(config: LoaderConfig): ...", set()),
    ],
)
def test_who_takes_a_whole_config_is_noticed(code: str, expected: set[str]) -> None:
    assert takers_of_root_configs(ast.parse(code)) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os\nos.listdir('a')", ["os.listdir"]),
        ("from os import scandir as s", ["scandir"]),
        ("for path in (folder / 'a').glob('*.tar'): pass", ["(folder / 'a').glob"]),
        ("names = map(os.scandir, folders)", ["os.scandir"]),
        ("import os\nfor entry in os.walk('a'): pass", ["os.walk"]),
        ("[n for n in ast.walk(tree)]\npublished(folder, '*.tar')", []),
    ],
)
def test_a_plain_listing_is_noticed(code: str, expected: list[str]) -> None:
    assert listings(ast.parse(code)) == expected


@pytest.mark.parametrize(
    ("code", "is_noticed"),
    [
        ("json.loads(path.read_text())", True),
        ("with open(p) as f: json.load(f)", True),
        ("np.load(path, allow_pickle=False)", True),
        ("np.lib.format.read_array(file)", True),
        ("yaml.safe_load(text)", True),
        ("safe_open(path, 'pt')", True),
        ("tarfile.open(path)", True),
        ("json_files.read(path, Row)", False),
        ("json.dumps(row)", False),
    ],
)
def test_a_bare_parser_is_noticed(code: str, is_noticed: bool) -> None:
    assert bool(parsers(ast.parse(code))) == is_noticed
