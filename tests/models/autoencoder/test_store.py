"""Saving and loading an autoencoder: whole, equal, and recognised by its fingerprint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError, WorkError
from models.autoencoder import interface, store
from models.autoencoder.kl import Autoencoder, KLConfig
from models.autoencoder.opening import identify, identify_saved
from models.autoencoder.store import fingerprint, load, save

SMALL = KLConfig(width=8, channel_multipliers=(1, 2, 2), spatial_compression=4, blocks=1)


def _network(seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    return Autoencoder(SMALL)


def test_a_saved_network_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = _network()
    identity = save(model, tmp_path / "autoencoder", {"psnr_db": 31.5})
    again = load(tmp_path / "autoencoder")
    assert again.config == SMALL
    clip = torch.rand(1, 3, 5, 8, 8)
    assert torch.equal(again(clip)[0], model(clip)[0])
    assert identity == fingerprint(model) == fingerprint(again) == fingerprint(tmp_path / "autoencoder")
    assert json.loads((tmp_path / "autoencoder" / "scores.json").read_text()) == {"psnr_db": 31.5}
    assert [path.name for path in tmp_path.iterdir()] == ["autoencoder"]


def test_a_saved_network_is_identified_by_hashing_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(_network(), tmp_path / "autoencoder")
    hashed: list[int] = []
    plain = interface.add_bytes

    def counted(digest: Any, tensor: Tensor) -> None:
        hashed.append(tensor.nbytes)
        plain(digest, tensor)

    monkeypatch.setattr(interface, "add_bytes", counted)
    identity = identify_saved(tmp_path)
    assert sum(hashed) == sum(4 * parameter.numel() for parameter in _network().parameters())
    assert identity == identify(load(tmp_path / "autoencoder"))


def test_fingerprint_knows_weights_and_configuration() -> None:
    model = _network()
    identity = fingerprint(model)
    assert identity == fingerprint(_network())
    assert identity != fingerprint(_network(1))
    with torch.no_grad():
        model.encoder.head.bias[0] += 1e-6
    assert identity != fingerprint(model)


def test_saving_again_replaces_and_saving_over_other_files_is_refused(tmp_path: Path) -> None:
    save(_network(0), tmp_path / "autoencoder")
    save(_network(1), tmp_path / "autoencoder")
    assert fingerprint(tmp_path / "autoencoder") == fingerprint(_network(1))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"output=.*mine: expected an empty folder"):
        save(_network(), tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(_network(), tmp_path / "autoencoder")
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_stands_for_the_autoencoder_in_it(tmp_path: Path) -> None:
    save(_network(), tmp_path / "run" / "autoencoder")
    assert store.locate(tmp_path / "run") == store.locate(tmp_path / "run" / "autoencoder")
    assert fingerprint(tmp_path / "run") == fingerprint(_network())


def test_a_folder_without_an_autoencoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"autoencoder=.*: expected a folder with config.json"):
        load(tmp_path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _other_config(path: Path) -> None:
    config = path.with_name("config.json")
    config.write_text(config.read_text().replace('"blocks": 1', '"blocks": 2'))


def _no_config(path: Path) -> None:
    path.with_name("config.json").write_text("{")


@pytest.mark.parametrize("damage", [_cut, _flip, _other_config, _no_config, Path.unlink])
def test_damage_is_found(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    save(_network(), tmp_path / "autoencoder")
    damage(tmp_path / "autoencoder" / "weights.safetensors")
    with pytest.raises(WorkError, match="autoencoder"):
        load(tmp_path / "autoencoder")


def test_a_folder_of_something_else_says_which_field_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(
        UserError, match=r"autoencoder=.*: expected .*; config.json in this one has no field 'con"
    ):
        load(tmp_path)
