"""DINOv2 and CLIP: features are those of transformers' own code, pictures are prepared as papers say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError, WorkError
from models.extractors.vision import centre, load_clip, load_dinov2, resized, resized_to_cover
from tests.models.public_models import save_clip, save_dinov2

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pictures(height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=torch.manual_seed(0))


def test_pictures_are_resized_as_pillow_does() -> None:
    made = pictures() // 2 + 64  # nothing overshoots, which Pillow cuts off between the two directions
    bicubic = Image.Resampling.BICUBIC
    for side in (24, 90):
        images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in made]
        expected = [np.asarray(image.resize((side, side), bicubic)) for image in images]
        found = resized(made, side).permute(0, 2, 3, 1).numpy()
        assert np.abs(found - np.stack(expected)).max() <= 1  # it also rounds there
    assert torch.equal(resized(made, 40, 56), made.float())


def test_the_shorter_side_is_fitted_and_the_centre_taken() -> None:
    wide = resized_to_cover(pictures(40, 56), 20)
    assert wide.shape[-2:] == (20, 28)
    assert torch.equal(centre(wide, 20), wide[..., 4:24])


def test_dinov2_gives_the_class_token(tmp_path: Path) -> None:
    import transformers

    folder = save_dinov2(tmp_path / "dino")
    network = load_dinov2(folder, "weights")
    own = transformers.Dinov2Model.from_pretrained(folder).eval()
    processor = transformers.BitImageProcessor(
        size={"height": 224, "width": 224}, do_center_crop=False, image_mean=MEAN, image_std=STD
    )
    made = pictures(224, 224)
    with torch.no_grad():
        expected = own(**processor(list(made), return_tensors="pt")).pooler_output
    assert torch.allclose(network(made), expected, atol=1e-5)
    assert network.width == 8
    assert network.identity != load_dinov2(save_dinov2(tmp_path / "other", seed=1), "weights").identity


def test_clip_embeds_pictures_and_texts_as_transformers_does(tmp_path: Path) -> None:
    import transformers

    folder = save_clip(tmp_path / "clip")
    network, own = load_clip(folder, "weights"), transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    made, texts = pictures(32, 32), ["a red disc", "blue"]
    tokens = network.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = own(
            **processor(list(made), return_tensors="pt"),
            **{k: tokens[k] for k in ("input_ids", "attention_mask")},
        )
    unit = torch.nn.functional.normalize
    assert torch.allclose(unit(network(made)), out.image_embeds, atol=1e-5)
    assert torch.allclose(unit(network.texts(texts)), out.text_embeds, atol=1e-5)


def test_other_folders_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights=.*: expected a folder with config.json"):
        load_dinov2(tmp_path, "weights")
    clip = save_clip(tmp_path / "clip")
    with pytest.raises(UserError, match=r"expected a folder of Dinov2Model.*this is one of CLIPModel"):
        load_dinov2(clip, "weights")
    with pytest.raises(UserError, match="a folder of CLIPModel"):
        load_clip(save_dinov2(tmp_path / "dino"), "weights")
    weights = clip / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WorkError, match="holds no readable CLIPModel"):
        load_clip(clip, "weights")
