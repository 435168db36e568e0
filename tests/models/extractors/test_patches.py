"""Features of patches are those of transformers' own code, in the places of the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.errors import UserError
from models.extractors.patches import load_patch_encoder
from models.extractors.vision import CLIP, IMAGENET, normalised, resized
from tests.models.public_models import save_clip, save_dinov2


def pictures(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, height, width), generator=generator).float()


@pytest.mark.parametrize("registers", [0, 2])
def test_dinov2_gives_a_feature_to_each_patch(tmp_path: Path, registers: int) -> None:
    import transformers

    folder = save_dinov2(tmp_path / "dino")
    if registers:
        settings = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56}
        config = transformers.Dinov2WithRegistersConfig(**settings, num_register_tokens=registers)
        transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)
    encoder = load_patch_encoder(folder, "picture_encoder")
    kind = transformers.Dinov2WithRegistersModel if registers else transformers.Dinov2Model
    own = kind.from_pretrained(folder).eval()
    patch = own.config.patch_size
    assert (encoder.patch, encoder.width) == (patch, 8)
    made = pictures(32, 48)
    found = encoder(made, (2, 3))
    prepared = normalised(resized(made, 2 * patch, 3 * patch), IMAGENET)
    with torch.no_grad():
        expected = own(prepared).last_hidden_state[:, 1 + registers :].unflatten(1, (2, 3))
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_clip_gives_the_tokens_of_its_picture_half(tmp_path: Path) -> None:
    import transformers

    folder = save_clip(tmp_path / "clip")
    encoder = load_patch_encoder(folder, "picture_encoder")
    own = transformers.CLIPModel.from_pretrained(folder).vision_model.eval()
    made = pictures(40, 24)
    prepared = normalised(resized(made, 40, 24), CLIP)
    with torch.no_grad():
        expected = own(prepared, interpolate_pos_encoding=True).last_hidden_state[:, 1:].unflatten(1, (5, 3))
    assert torch.equal(encoder(made, (5, 3)), expected)
    assert not any(name.startswith("text") for name, _ in encoder.network.named_parameters())


def test_another_network_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["T5EncoderModel"]}')
    with pytest.raises(UserError, match=r"picture_encoder=.*expected a folder of Dinov2Model or .*T5Encoder"):
        load_patch_encoder(tmp_path, "picture_encoder")
