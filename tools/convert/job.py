"""Convert weights of other projects into an export, which `sample` and `train initial=` take, and back.

`longtake convert DiT-XL-2-256x256.pt autoencoder=sd-vae-ft-ema output=runs/dit-xl2` reads the file, without
running code of it, and writes an export. `longtake convert runs/dit-xl2 output=dit.pt` writes the weights of
a run or an export by the names that the other project reads; with `layout=diffusers` the source, or the
output, is the folder of a DiTPipeline. A network that has no such form is refused.
"""

from __future__ import annotations

from pathlib import Path

from core.errors import UserError
from core.reading.instead import instead
from core.run.folder import CONFIG, EXPORT
from tools.convert.config import INDEX, Config

__all__ = ["Config", "plan", "run"]

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    source, output = Path(config.source), Path(config.output)
    _require_free(output, overwrite=config.overwrite)
    if _is_file_of_weights(source, config.weights, config.autoencoder):
        return [f"read the weights of {source} in layout {config.layout}, write the export {output}"]
    if pipeline_there(source):
        return [f"read the pipeline {source}, write the export {output}"]
    _require_writable(source, output, config.layout)
    return [f"write weights={config.weights} of {source} to {output} in layout {config.layout}"]


def run(config: Config) -> None:
    """Convert, whole or not at all."""
    source, output = Path(config.source), Path(config.output)
    _require_free(output, overwrite=config.overwrite)
    if _is_file_of_weights(source, config.weights, config.autoencoder):
        from tools.convert.weights_reading import Unsaid, read_weights

        if config.layout == "diffusers":
            raise UserError("layout", "diffusers", "dit or sit of a file; a pipeline is a folder")
        unsaid = Unsaid(Path(config.autoencoder), config.latent_std, config.heads, config.classes)
        read_weights(source, output, config.layout, config.weights, unsaid, config.card)
    elif pipeline_there(source):
        from tools.convert.weights_reading import Unsaid, read_pipeline

        unsaid = Unsaid(Path(config.autoencoder), config.latent_std, 0, config.classes)
        read_pipeline(source, output, unsaid, config.card)
    elif config.layout == "diffusers":
        from tools.convert import pipeline

        _require_writable(source, output, config.layout)
        pipeline.write(source, output, config.weights, config.checkpoint, config.card)
    else:
        from tools.convert.weights_writing import write_weights

        _require_writable(source, output, config.layout)
        write_weights(source, output, config.layout, config.weights, config.checkpoint)


def pipeline_there(source: Path) -> bool:
    """Return whether a source is the folder of a pipeline of diffusers."""
    return (source / INDEX).is_file() and not (source / EXPORT).is_file()


def _require_free(output: Path, *, overwrite: bool) -> None:
    if output.exists() and not (overwrite and _is_ours(output)):
        way_out = "; overwrite=true replaces it" if _is_ours(output) else ""
        raise UserError("output", output, f"a new name; it exists{way_out}")


def _is_file_of_weights(source: Path, weights: str, autoencoder: str) -> bool:
    """Return whether the source is a file to be read; UserError where what that needs is not given."""
    if not source.is_file():
        return False
    if source.suffix not in SUFFIXES:
        raise UserError("source", source, f"a file of weights ({', '.join(SUFFIXES)})")
    if weights not in ("ema", "raw"):
        raise UserError("weights", weights, "ema or raw of a file")
    if not autoencoder:
        raise UserError("autoencoder", "''", "the folder of the autoencoder whose latents the network knows")
    return True


def _require_writable(source: Path, output: Path, layout: str) -> None:
    if not (source / CONFIG).is_file():
        expected = f"a file of weights, or the folder of a run or export{instead(source)}"
        raise UserError("source", source, expected)
    if layout != "diffusers" and output.suffix != ".pt":
        raise UserError("output", output, "a name that ends in .pt")


def _is_ours(output: Path) -> bool:
    """Return whether this job may have written what is there: an export, a pipeline, a file of weights."""
    ours = (output / EXPORT).is_file() or (output / INDEX).is_file()
    return ours or (output.is_file() and output.suffix == ".pt")
