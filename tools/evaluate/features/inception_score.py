"""The Inception score of predictions."""

from __future__ import annotations

import math

import numpy as np

from tools.evaluate.features.pairs import Features
from tools.evaluate.features.spread import Spread
from tools.evaluate.jackknife import BLOCKS, LEAST, STUDENT
from tools.evaluate.measures import subset


def inception_score(logits: Features, seed: int, splits: int = BLOCKS) -> Spread:
    """Return the Inception score (Salimans et al. 2016) and its standard deviation over splits.

    exp of the mean KL divergence of p(y|x) from p(y), which is estimated within each split; samples are
    shuffled first, as torch-fidelity does, so that classes in turns do not matter. A split has 10 samples or
    more, so that few samples make fewer splits. Splits are apart, hence the interval of their mean, from 200
    samples on, is Student's: of the expected score of splits of that size.
    """
    order = subset(len(logits), len(logits), (), seed, "inception score")
    scores = []
    splits = max(1, min(splits, len(logits) // 10))
    for part in np.array_split(logits[order].astype(np.float64), splits):
        log_p = part - np.logaddexp.reduce(part, axis=1, keepdims=True)
        p = np.exp(log_p)
        marginal = p.mean(0)
        log_marginal = np.log(marginal, out=np.zeros_like(marginal), where=marginal > 0)
        scores.append(math.exp((p * (log_p - log_marginal)).sum(1).mean()))
    has_interval = splits == BLOCKS and len(logits) >= LEAST
    half = STUDENT * float(np.std(scores, ddof=1)) / math.sqrt(splits) if has_interval else math.nan
    return Spread(float(np.mean(scores)), float(np.std(scores)), half)
