"""Names of scores in scores.json: who measures, compares or shows them takes them from here."""

from __future__ import annotations

CLASS_AGREEMENT, CLIP_AGREEMENT = "class_agreement", "clip_agreement"
FRECHET, PRECISION, RECALL, NEAREST, COPIES = "frechet", "precision", "recall", "nearest", "copies"
FRECHET_HELDOUT, FRECHET_NOISE = "frechet_heldout", "frechet_noise"
FID, SFID, KID = "fid", "sfid", "kid"
INCEPTION, INCEPTION_SHUFFLED = "inception_score", "inception_score_shuffled"
DENSITY, COVERAGE = "density", "coverage"
FD_DINOV2, CMMD, FVD, CLIP_SCORE = "fd_dinov2", "cmmd", "fvd", "clip_score"
MOTION, JERK = "motion_ratio", "jerk_ratio"
PSNR, SSIM, LPIPS, RFID = "psnr_db", "ssim", "lpips", "rfid"

AGREEMENTS = (CLASS_AGREEMENT, CLIP_AGREEMENT)
# Which way a score is better; those that are in neither have no such way, as the size of a set has none.
LARGER_IS_BETTER = (
    *(INCEPTION, INCEPTION_SHUFFLED, PRECISION, RECALL, DENSITY, COVERAGE, CLIP_SCORE),
    *(*AGREEMENTS, PSNR, SSIM),
)
_DISTANCES = (FID, SFID, RFID, FD_DINOV2, FVD)
SMALLER_IS_BETTER = (
    *_DISTANCES,
    *(f"{name}_infinite" for name in _DISTANCES),
    KID,
    CMMD,
    FRECHET,
    LPIPS,
)

_ON_REAL = {CLASS_AGREEMENT: "reference_accuracy", CLIP_AGREEMENT: "clip_reference_accuracy"}
_REAL = "_real"


def real(name: str) -> str:
    """Return the name of the same measure on real samples."""
    return _ON_REAL.get(name, name + _REAL)


def interval(name: str) -> str:
    """Return the name of half the width of a score's 95 % interval."""
    return f"{name}_interval"


def is_interval(name: str) -> bool:
    """Return whether `interval` gives this name."""
    return name.endswith(interval(""))


def is_of_real(name: str) -> bool:
    """Return whether `real` gives this name."""
    return name in _ON_REAL.values() or name.endswith(_REAL)
