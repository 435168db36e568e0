"""Labels in any script, and numbers with a legend where no font can write them. Run: pytest FILE

With LONGTAKE_FONTS=required the tests of installed fonts fail where these are missing; .ci/run installs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.media import pictures
from data.media.labels import installed_fonts, lettering

CAT, DOG, PEACE = "\u732b", "\u0643\u0644\u0628", "\u05e9\u05dc\u05d5\u05dd"  # Chinese, Arabic, Hebrew
DROID = Path("/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf")
AMIRI = Path("/usr/share/fonts/opentype/fonts-hosny-amiri/Amiri-Regular.ttf")


@pytest.fixture(autouse=True)
def fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the only folder of installed fonts, empty at first."""
    monkeypatch.setattr(installed_fonts, "FOLDERS", (str(tmp_path / "fonts"),))
    monkeypatch.delenv(installed_fonts.VARIABLE, raising=False)
    (tmp_path / "fonts/below").mkdir(parents=True)
    forget()
    yield tmp_path / "fonts/below"
    forget()


def forget() -> None:
    for cached in (installed_fonts._installed, installed_fonts._can_shape, lettering._parts):
        cached.cache_clear()


def needed(path: Path) -> Path:
    if not path.is_file():
        if os.environ.get("LONGTAKE_FONTS") == "required":
            pytest.fail(f"LONGTAKE_FONTS=required, and this machine lacks {path}")
        pytest.skip(f"needs {path}")
    return path


def test_a_name_that_no_font_can_write_stands_as_its_number_with_a_legend(fonts: Path) -> None:
    (fonts / "no.ttf").write_bytes(b"not a font")
    names = ["cat", CAT, "dog \u2026", DOG]
    assert [lettering.written_name(i, names) for i in range(4)] == ["cat", "1", "dog \u2026", "3"]
    assert lettering.legend(np.array([3, 0, 1, -1, 2, 1]), names) == [f"1 = {CAT}", f"3 = {DOG}"]
    images = np.zeros((2, 32, 32, 3), np.uint8)
    shown = pictures.image_grid(images, np.array([0, 1]), [CAT, "\u72ac"])
    assert np.array_equal(shown, pictures.image_grid(images, np.array([0, 1]), ["0", "1"]))


def test_a_name_of_several_lines_stands_on_one() -> None:
    assert lettering.width("a\n b") == lettering.width("a b") > lettering.width("ab")


def test_installed_fonts_write_what_the_own_one_lacks(fonts: Path) -> None:
    for font in (DROID, AMIRI):
        (fonts / font.name).symlink_to(needed(font))
    names = ["cat", CAT, DOG, f"{CAT} and {DOG}", "\U0001f408\ufe0f"]
    assert [lettering.written_name(i, names) for i in range(5)] == [*names[:4], "4"]  # no font has the last
    assert lettering.legend(np.arange(5), names) == [f"4 = {names[4]}"]
    blank = np.full((40, 160, 3), pictures.PAPER, np.uint8)
    drawn = [lettering.write(blank, [((80, 20), name)]) for name in names[:4]]
    assert all((picture != blank).any() for picture in drawn)
    several = (drawn[3] != blank).any((0, 2)).nonzero()[0]
    assert abs(several[0] + several[-1] - 160) < 8  # in the middle
    assert lettering.width(names[3]) > lettering.width(CAT) + lettering.width(DOG)


def test_arabic_letters_join_from_right_to_left(fonts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fonts / AMIRI.name).symlink_to(needed(AMIRI))
    apart = sum(lettering.width(letter) for letter in DOG)
    assert 0 < lettering.width(DOG) < 0.9 * apart
    assert [text for _, text in installed_fonts.fonts_for(f"{DOG} 2")] == [f"{DOG} 2"]
    monkeypatch.setattr("PIL.features.check", lambda name: name != "raqm")
    forget()
    assert installed_fonts.fonts_for(DOG) == []
    assert installed_fonts.fonts_for("cat") != []


def test_words_of_several_fonts_stand_in_the_order_of_the_first(fonts: Path) -> None:
    for font in (DROID, AMIRI):
        (fonts / font.name).symlink_to(needed(font))
    leftward = [text for _, text in installed_fonts.fonts_for(f"{DOG} {CAT}")]
    assert leftward == [CAT, f"{DOG} "]
    assert [text for _, text in installed_fonts.fonts_for(f"{CAT} {DOG}")] == [f"{CAT} ", DOG]


def test_a_variable_names_a_font(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(installed_fonts.VARIABLE, str(needed(DROID)))
    assert lettering.writable(CAT)
    forget()
    monkeypatch.setenv(installed_fonts.VARIABLE, __file__)
    assert not lettering.writable(CAT)
    assert not lettering.writable(PEACE)
    assert capsys.readouterr().err.count(f"warning: LONGTAKE_FONT={__file__} is no font") == 1
