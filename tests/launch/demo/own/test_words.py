"""The text encoder of words: read as any other, one vector a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from launch.demo.own.words import WIDTH, write_word_encoder


def test_words_have_vectors_of_their_own_whatever_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from models.text import encoders

    assert write_word_encoder(tmp_path / "a", ["A red disc, on black", "a blue square"]) == 8
    write_word_encoder(tmp_path / "b", ["red"])
    first, second = (encoders.load(tmp_path / name) for name in "ab")
    disc, upper, empty = first(["a red disc", "A RED disc, unheard", ""])
    assert (disc.shape, upper.shape, empty.shape) == ((3, WIDTH), (5, WIDTH), (0, WIDTH))
    assert torch.equal(disc, upper[:3])
    assert torch.equal(second(["red"])[0][0], disc[1])
    assert not torch.equal(disc[0], disc[1])
    assert first.count_tokens(["a red disc, on"]) == [5]


def test_the_same_captions_give_the_same_files(tmp_path: Path) -> None:
    for name in "ab":
        write_word_encoder(tmp_path / name, ["one two", "two"])
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
