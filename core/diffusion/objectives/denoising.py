"""The denoising loss: the squared error of the network's prediction at one noise level."""

from __future__ import annotations

from torch import Tensor

from core.diffusion import predictions
from core.diffusion.frames.training_levels import mean_over_levels, mean_over_unknown
from core.diffusion.objectives.noised import Model, NoisyBatch, squared_error
from core.diffusion.objectives.own import Own
from core.diffusion.paths.path import Path
from core.diffusion.posterior import bound_bits
from core.errors import UserError
from core.losses import Losses


def denoising_loss(
    model: Model,
    noised: NoisyBatch,
    path: Path,
    *,
    bound_weight: float | None = None,
    log_variance: Own | None = None,
) -> Losses:
    """Return the weighted mean squared error of every sample.

    bound_weight: of the variational bound that trains the network's variance; None where that is not trained.
    log_variance: of the objective's own; the loss is then squared / e^u + u, by which u learns the logarithm
    of the squared error at each level (2312.02696, eq. 21).
    """
    t = noised.time
    seen = predictions.network_input(path, noised.x_t, noised.alpha, noised.sigma)
    output = model(seen, noised.time_input, noised.condition)
    variance_fraction: Tensor | None = None
    if output.shape[1] == 2 * noised.target.shape[1]:
        output, variance = output.chunk(2, dim=1)
        variance_fraction = variance if bound_weight is not None else None
    elif bound_weight is not None:
        raise UserError("learned_sigma", True, "false for a model that predicts no variance")
    error = squared_error(output, noised.target)  # in float32, as the target is
    if t.ndim == 2:
        return Losses(mean_over_levels(error, noised.weight, t), t.sum(1) / (t > 0).sum(1))
    squared = mean_over_unknown(error, noised.condition.frame_mask)
    if noised.weight is not None:
        squared = squared * noised.weight
    losses = Losses(loss=squared, time=t)
    if log_variance is not None:
        u = log_variance("log_variance", noised.alpha.flatten(), noised.sigma.flatten())
        extras = {"squared_error": squared, "log_variance": u}
        losses = Losses(loss=squared * (-u).exp() + u, time=t, extras=extras)
    if variance_fraction is None or bound_weight is None:
        return losses
    # The bound trains the variance alone: its gradient must not reach the mean (2102.09672, section 3.1).
    data = predictions.to_data("noise", output.detach().float(), noised.x_t, noised.alpha, noised.sigma)
    bits = bound_bits(path, t, noised.x0, noised.x_t, data, variance_fraction.float())
    # A sum over the chain, estimated from one of its terms.
    scale = bound_weight * (path.num_steps or 0)
    extras = {"squared_error": squared, **losses.extras, "bound_bits": bits}
    return Losses(loss=losses.loss + scale * bits, time=t, extras=extras)
