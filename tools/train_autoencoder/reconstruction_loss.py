"""The loss of an autoencoder: errors of its reconstruction, and the divergence of its posterior."""

from __future__ import annotations

from collections.abc import Callable

from einops import reduce
from torch import Tensor

from core.batch import Batch
from core.draws import Draws
from core.losses import Losses
from models.autoencoder.interface import AutoencoderConfig
from tools.train_autoencoder.config import ReconstructionConfig

Model = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


class ReconstructionObjective:
    """Error of the reconstruction; of a posterior, drawn from it, and its divergence (arXiv:1312.6114)."""

    def __init__(self, config: ReconstructionConfig, model: AutoencoderConfig) -> None:
        self._config, self._model = config, model

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """Return the losses of batch.x, pixels (B, 3, T, H, W): means over a sample's pixels and latent
        numbers.
        """
        config, pixels = self._config, batch.x
        shape = self._model.latent_shape((pixels.shape[2], pixels.shape[3], pixels.shape[4]))
        posterior, channels = self._model.moments == 2, self._model.latent_channels
        noise = draws.normal("posterior", (channels, *shape)) if posterior else None
        reconstruction, moments = model(pixels, noise)
        error = reconstruction - pixels
        squared, absolute = _mean(error.square()), _mean(error.abs())
        loss, extras = config.squared * squared + config.absolute * absolute, {"squared_error": squared}
        if posterior:
            mean, log_variance = moments.unbind(1)
            divergence = _mean(0.5 * (mean.square() + log_variance.exp() - 1 - log_variance))
            loss, extras = loss + config.kl * divergence, {**extras, "divergence": divergence}
        return Losses(loss=loss, extras=extras)


def _mean(values: Tensor) -> Tensor:
    return reduce(values, "b c t h w -> b", "mean")
