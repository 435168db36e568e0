"""Captions and tables in encodings of single languages. Run: pytest tests/data/raw/test_encodings.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import UserError
from data.raw.annotations.text_encoding import readings
from tests.data.raw.sources import listed, pictures, told

TEXTS = {
    "cp1252": "un café “noir”",
    "cp1251": "рыжая кошка",
    "shift-jis": "赤い猫が眠る",
    "gb18030": "红色的猫在睡觉",
    "big5": "紅色的貓在睡覺",
    "euc-kr": "빨간 고양이",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_a_stated_encoding_is_read_and_an_unstated_one_is_shown(tmp_path: Path, encoding: str) -> None:
    text = TEXTS[encoding]
    files = {
        **pictures("0.png", "1.png"),
        "m.csv": f"path,text\n0.png,{text}\n".encode(encoding),
        "1.txt": text.encode(encoding),
    }
    for item in listed(tmp_path, files).items:
        stage, reason = item.refused or ("", "")
        assert (stage, f"{encoding} reads" in reason) == ("caption", True)
    assert told(listed(tmp_path, {}, encoding=encoding)) == {"0.png": ("", text), "1.png": ("", text)}


def test_a_header_in_another_encoding_is_named(tmp_path: Path) -> None:
    files = {**pictures("0.png"), "m.csv": "文件,描述\n0.png,红猫\n".encode("gb18030")}
    with pytest.raises(UserError, match=r"m.csv: line 1 is not UTF-8; encoding=.*gb18030 reads '文件,描述'"):
        listed(tmp_path, files)


def test_bytes_of_no_encoding_are_to_be_written_anew() -> None:
    assert readings(b"\xff\xfe\x00\x01\x81") == "write it as UTF-8"
    assert readings("é".encode("cp1252") * 5000).startswith("encoding=cp1252 reads")


def test_the_first_bytes_that_are_no_utf8_are_shown_wherever_they_lie() -> None:
    assert "cp1252 reads 'ters café'" in readings(("many letters " * 1000 + "café").encode("cp1252"))
    # The first letter is also UTF-8, é, and is not cut where what is shown begins.
    assert "gb18030 reads '茅abcdefg" in readings("茅abcdefg中".encode("gb18030"))
