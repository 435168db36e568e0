"""Make the previews and scores that a run asks for. Their modules are imported only where they are asked for:
70 modules that make samples, a hundredth of a start.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.engine.network import Network
from models.denoisers.network import DenoiserConfig
from tools.preview.config import PreviewConfig, ScoreConfig

if TYPE_CHECKING:
    from tools.preview.sampled_look import SampledLook


def wanted_looks(
    preview: PreviewConfig,
    scores: ScoreConfig,
    network: Network,
    model: DenoiserConfig,
    run: Path,
    source: str,
) -> list[SampledLook]:
    """Return the previews and scores of a run that are asked for (collective: all ranks).

    source: the place of the cache that the run is trained on.
    UserError where the network cannot make what is asked for, or the cache is of another kind.
    """
    looks: list[SampledLook] = []
    if preview.every:
        from tools.preview.setup import make_previews

        looks += make_previews(preview, network, model, run)
    if scores.every:
        from tools.preview.score_setup import make_scores

        looks += make_scores(scores, network, model, run, source)
    return looks
