"""What others wrote, shown without letting it act. Run: pytest tests/core/test_escaping.py"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import unicodedata

import pytest

from core import terminal
from core.escaping import escaped, escaped_line
from core.progress import Progress, say
from core.root import ROOT

HOSTILE = "\x1b]0;owned\x07a\x9b2J\rb\u202egpj.exe\u2066\u2028c\ud800\x00\x7f\u200f\ufeff\U000e0041"
ACTING = {
    chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp")
}
ACTING |= {
    c
    for c in map(chr, range(0x2000, 0x2070))
    if unicodedata.bidirectional(c) in ["LRE", "RLE", "LRO", "RLO", "PDF"]
}
ACTING |= {
    c for c in map(chr, range(0x2000, 0x2070)) if unicodedata.bidirectional(c) in ["LRI", "RLI", "FSI", "PDI"]
}


def test_everything_that_acts_on_a_terminal_is_spelled_out() -> None:
    assert {c for c in ACTING if escaped(c) == c} == {"\n", "\t"}
    assert {c for c in ACTING if escaped_line(c) == c} == set()
    for text in ("ordinary text, 猫 und Größe, עברית, 👨‍👩‍👧", "a\\b ${x} <b>"):
        assert escaped(text) == escaped_line(text) == text


def test_json_means_the_same_after_it() -> None:
    text = HOSTILE.replace("\ud800", "")
    assert json.loads(escaped(json.dumps({"text": text}, ensure_ascii=False))) == {"text": text}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("screen", [io.StringIO, Screen])
def test_all_that_is_printed_passes_through_it(monkeypatch: pytest.MonkeyPatch, screen: type) -> None:
    out, err = screen(), screen()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    # Lines that streams of other tests did not take would be counted here.
    monkeypatch.setattr(terminal, "_OUTPUTS", {"stdout": terminal._Output(), "stderr": terminal._Output()})
    monkeypatch.setenv("COLUMNS", "200")
    terminal.deliver(HOSTILE)
    terminal.tell(HOSTILE)
    terminal.tell(HOSTILE, to="stdout")
    say(f"first\n{HOSTILE}")
    with Progress(1, f"work\n{HOSTILE}") as progress:
        progress.advance(note=f"note\n{HOSTILE}")
    shown = (out.getvalue() + err.getvalue()).replace(terminal.CLEAR_LINE, "")
    assert not (ACTING - {"\n"}) & set(shown)
    assert shown.count("\n") == 5
    assert out.getvalue().splitlines()[0] == escaped(HOSTILE)


def test_a_traceback_passes_through_it() -> None:
    program = "from core import terminal; terminal.survive(); raise ValueError('\\x1b[2J\\u202e')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert b"\\u001b[2J\\u202e" in done.stderr.splitlines()[-1]
