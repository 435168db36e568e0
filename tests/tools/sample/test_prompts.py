"""Prompts that a text encoder cuts off are counted and said."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tools.sample import prompts


class OneTokenAWord:
    """Stands for an encoder that takes three tokens."""

    tokens = 3
    identity: ClassVar = {"tokens": 3, "precision": "fp32"}

    def __init__(self, *_: object) -> None:
        pass

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def encode_captions(self, texts: list[str]) -> list[Tensor]:
        return [torch.ones(min(3, count), 2) for count in self.count_tokens(texts)]


def test_prompts_that_are_too_long_are_counted_and_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prompts, "CaptionEmbedder", OneTokenAWord)
    texts = ("a b", "a b c d", "a b c", "a b c d e")
    found = prompts.embed(texts, OneTokenAWord.identity, "", torch.device("cpu"))
    assert found is not None
    assert found.lengths.tolist() == [2, 3, 3, 3]
    said = capfd.readouterr().err
    assert "2 prompts of 4 longer than the 3 tokens of the text encoder" in said
    assert "cut off: 'a b c d'" in said
    prompts.embed(texts[:1], OneTokenAWord.identity, "", torch.device("cpu"))
    assert capfd.readouterr().err == ""
