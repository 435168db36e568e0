"""The same work by other libraries, as their documentation shows it; those not installed are left out."""

from __future__ import annotations

import importlib.util
import io
import itertools
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.latent.packs import Shape
from tools.bench.material import latents_of, make_plain_tars

Items = Callable[[], Iterator[Any]]


def latent_readers(
    folder: Path, shape: Shape, batch: int, samples: int
) -> tuple[dict[str, Items], tuple[str, ...]]:
    """Return readers of the same latents, {name: shuffled (ids, latents)}, and what is not installed."""
    count = samples // batch * batch
    tars = make_plain_tars(folder / "tars", samples, shape)
    found: dict[str, Items] = {
        "webdataset": lambda: webdataset_latents(tars, batch, count, shuffle=True),
        ".npy files": _npy_files(folder / "npy", shape, batch, samples),
    }
    for name, module, make in (
        ("litdata", "litdata", _litdata),
        ("mosaicml-streaming", "streaming", _mosaic),
    ):
        if importlib.util.find_spec(module):
            found[name] = make(folder / module, shape, batch, samples)
    absent = tuple(name for name in ("litdata", "mosaicml-streaming") if name not in found)
    return found, absent


def webdataset_latents(
    tars: Sequence[Path], batch: int, count: int, *, shuffle: bool
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield batches decoded by webdataset, shuffled in a buffer of 1000."""
    import webdataset

    data = webdataset.WebDataset([str(path) for path in tars], shardshuffle=False)
    if shuffle:
        data = data.shuffle(1000)
    for keys, values in itertools.islice(
        data.decode().to_tuple("__key__", "latent.npy").batched(batch), count // batch
    ):
        yield np.array([int(key) for key in keys]), torch.from_numpy(np.stack(list(values)))


def webdataset_skip(
    tars: Sequence[Path], skipped: int, batch: int
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield the batch behind `skipped` samples of a stream, which can only be read past.

    They are not decoded.
    """
    import webdataset

    stream = webdataset.WebDataset([str(path) for path in tars], shardshuffle=False).slice(
        skipped, skipped + batch
    )
    for keys, values in stream.decode().to_tuple("__key__", "latent.npy").batched(batch):
        yield np.array([int(key) for key in keys]), torch.from_numpy(np.stack(list(values)))


def _npy_files(folder: Path, shape: Shape, batch: int, samples: int) -> Items:
    """Read one file a latent, as fast-DiT keeps them."""
    folder.mkdir()
    for id in range(samples):
        np.save(folder / f"{id:08d}.npy", latents_of(np.array([id]), shape)[0])

    def read() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        order = np.random.default_rng(0).permutation(samples)
        for start in range(0, samples - batch + 1, batch):
            ids = order[start : start + batch]
            latents = [torch.from_numpy(np.load(folder / f"{id:08d}.npy")) for id in ids.tolist()]
            yield ids, torch.stack(latents)

    return read


def _litdata(folder: Path, shape: Shape, batch: int, samples: int) -> Items:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.cache import Cache

    cache = Cache(str(folder), chunk_bytes="64MB")
    for id in range(samples):
        cache[id] = {"id": id, "latent": torch.from_numpy(latents_of(np.array([id]), shape)[0])}
    cache.done()
    cache.merge()

    def read() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        data = StreamingDataset(str(folder), shuffle=True, drop_last=False)
        loader = StreamingDataLoader(data, batch_size=batch, num_workers=0)
        for item in itertools.islice(loader, samples // batch):
            yield item["id"].numpy(), item["latent"]

    return read


def _mosaic(folder: Path, shape: Shape, batch: int, samples: int) -> Items:
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    columns = {"id": "int", "latent": f"ndarray:float16:{','.join(map(str, shape))}"}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for id in range(samples):
            writer.write({"id": id, "latent": latents_of(np.array([id]), shape)[0]})
    clean_stale_shared_memory()
    data = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch, num_canonical_nodes=1)

    def read() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        loader = StreamingDataLoader(data, batch_size=batch, num_workers=0)
        for item in itertools.islice(loader, samples // batch):
            yield np.asarray(item["id"]), item["latent"]

    return read


def write_members(path: Path, latents: np.ndarray) -> Path:
    """Write one member a sample by webdataset's TarWriter, with its defaults."""
    import webdataset

    with open(path, "wb") as file, webdataset.TarWriter(file) as writer:
        for id, latent in enumerate(latents):
            writer.write({"__key__": f"{id:08d}", "latent.npy": latent, "cls": id % 10})
    return path


def read_members(path: Path) -> Iterator[np.ndarray]:
    """Yield the arrays of a plain tar, by `tarfile` and NumPy."""
    with tarfile.open(path) as tar:
        for member in tar:
            if member.name.endswith(".npy"):
                yield np.load(io.BytesIO(tar.extractfile(member).read()))  # type: ignore[union-attr]


def write_shard(pattern: Path, latents: np.ndarray) -> Path:
    """Write the same by webdataset's ShardWriter, as one shard; `pattern` holds a %d."""
    import webdataset

    with webdataset.ShardWriter(str(pattern), maxcount=len(latents), verbose=0) as writer:
        for id, latent in enumerate(latents):
            writer.write({"__key__": f"{id:08d}", "latent.npy": latent, "cls": id % 10})
    return Path(str(pattern) % 0)
