"""Text encoders: the class that the config names, every weight from the file, nothing padded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.errors import UserError, WorkError
from models.text import encoders
from tests.models.public_models import TEXT_ENCODERS, save_text_encoder

TEXTS = ["a red disc", "a", "a green square moves left on black a a a", ""]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("text")
    return {kind: save_text_encoder(folder / kind, kind) for kind in TEXT_ENCODERS}


@pytest.mark.parametrize("kind", list(TEXT_ENCODERS))
def test_embeddings_are_those_of_each_text_alone(kind: str, saved: dict[str, Path]) -> None:
    import transformers

    encoder = encoders.load(saved[kind])
    embeddings = encoder(TEXTS)
    assert [tuple(e.shape) for e in embeddings] == [(4, 8), (2, 8), (8, 8), (1, 8)]
    name = kind.replace("ForConditionalGeneration", "EncoderModel")
    network = getattr(transformers, name).from_pretrained(saved[kind]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(saved[kind])
    for words, embedding in zip(TEXTS, embeddings, strict=True):
        ids = tokenizer(words, truncation=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            alone = network(input_ids=ids).last_hidden_state[0]
        assert torch.allclose(embedding, alone, atol=1e-5)
    assert not torch.allclose(embeddings[0][1], embeddings[2][1], atol=1e-3)


@pytest.mark.parametrize("kind", ["UMT5EncoderModel", "T5ForConditionalGeneration"])
def test_there_is_no_decoder(kind: str, saved: dict[str, Path]) -> None:
    encoder = encoders.load(saved[kind])
    assert encoder.settings["class"].endswith("EncoderModel")
    assert not [name for name, _ in encoder.named_parameters() if "decoder" in name]


def test_a_weight_that_is_not_there_is_not_invented(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_text_encoder(tmp_path / "t5", "T5EncoderModel")
    state = load_file(folder / "model.safetensors")
    state.pop("encoder.final_layer_norm.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WorkError, match=r"lack 1 of T5EncoderModel's, encoder.final_layer_norm.weight"):
        encoders.load(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WorkError, match="no readable T5EncoderModel"):
        encoders.load(folder)


def test_identity_covers_weights_tokenizer_and_length(saved: dict[str, Path], tmp_path: Path) -> None:
    first = encoders.load(saved["CLIPTextModel"]).describe()
    assert first == encoders.load(save_text_encoder(tmp_path / "same", "CLIPTextModel")).describe()
    other = encoders.load(save_text_encoder(tmp_path / "other", "CLIPTextModel", seed=1)).describe()
    shorter = encoders.load(saved["CLIPTextModel"], tokens=4).describe()
    longer = encoders.load(save_text_encoder(tmp_path / "limit", "CLIPTextModel", limit=6)).describe()
    changed = [{name for name in first if first[name] != record[name]} for record in (other, shorter, longer)]
    assert changed == [{"encoder"}, {"tokens"}, {"tokenizer", "tokens"}]
    assert (first["class"], first["width"], first["tokens"]) == ("CLIPTextModel", 8, 8)


def test_the_folder_of_a_pipeline_will_do(saved: dict[str, Path], tmp_path: Path) -> None:
    kind = "T5EncoderModel"
    for name in ("text_encoder", "tokenizer"):
        (tmp_path / name).mkdir()
    for file in saved[kind].iterdir():
        place = "tokenizer" if "token" in file.name else "text_encoder"
        (tmp_path / place / file.name).write_bytes(file.read_bytes())
    for folder in (tmp_path, tmp_path / "text_encoder"):
        assert encoders.load(folder).describe() == encoders.load(saved[kind]).describe()


def test_what_is_no_text_encoder_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text_tokens=9: expected at most 8"):
        encoders.load(saved["CLIPTextModel"], tokens=9)
    with pytest.raises(UserError, match="text_tokens=0: expected a number"):
        encoders.load(save_text_encoder(tmp_path / "endless", "T5EncoderModel", limit=None))
    with pytest.raises(UserError, match=r"expected a folder with config.json"):
        encoders.load(tmp_path)
    folder = save_text_encoder(tmp_path / "odd", "T5EncoderModel")
    (folder / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(UserError, match="text_encoder=GPT2LMHeadModel: expected one of CLIPTextModel"):
        encoders.load(folder)
    folder = save_text_encoder(tmp_path / "bare", "T5EncoderModel")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match="expected a tokenizer in one of"):
        encoders.load(folder)
