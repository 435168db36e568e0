"""Convert what files say their colours are to what is trained on: BT.709 for films, sRGB for pictures.

Codes are those of ITU-T H.273, as video streams, AVIF, HEIF and PNG (cICP) carry them. 203 cd/m2 is white
(ITU-R BT.2408); light beyond it, and colours outside of BT.709, are clipped in linear light, channel by
channel, as zimg clips them. Frames keep their own depth until they are converted.

swscale's conversion (libswscale 9.5) agrees for grey within 1 of 255, but moves saturated colours that BT.709
has by up to 10 of 255, and takes 1.3 s to set up and 50 ms a megapixel; this takes neither.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.media.formats import MediaError

ColourMode = Literal["convert", "refuse", "keep"]
Display = Literal["BT.709", "sRGB"]
Floats = NDArray[np.float32]

# What is done to colours: part of what a latent cache says it was made with, where a sample needs it.
RULE = "to BT.709 (films) or sRGB (pictures) in linear light, 203 cd/m2 is white, clipped"
UNTAGGED_RULE = "matrix of films that say none: BT.709 in HD, BT.601 below"

WHITE = 203.0  # cd/m2 of white in a film without its own limit, ITU-R BT.2408
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # of the display that HLG is defined for, ITU-R BT.2100
BT709, UNSAID = 1, 2
LINEAR, PQ, DCI, HLG = 8, 16, 17, 18
GAMMA28, LOG100, LOG316 = 5, 9, 10
# Transfers whose codes are kept: films in them are shown alike, whatever curve the camera had.
SDR = {0, 1, 2, 3, 4, 6, 7, 11, 12, 13, 14, 15}
TRANSFERS = {
    **{1: "BT.709", 2: "not said", 4: "gamma 2.2", 5: "gamma 2.8", 6: "BT.601", 7: "SMPTE 240M"},
    **{8: "linear", 9: "log 100", 10: "log 316", 11: "xvYCC", 12: "BT.1361", 13: "sRGB", 14: "BT.2020"},
    **{15: "BT.2020", 16: "PQ", 17: "SMPTE 428", 18: "HLG"},
}
D65, D50, C, DCI_WHITE = (0.3127, 0.329), (0.3457, 0.3585), (0.31, 0.316), (0.314, 0.351)
# Code -> name, (x, y) of red, green, blue and white.
PRIMARIES = {
    1: ("BT.709", ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), D65)),
    4: ("BT.470 M", ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), C)),
    5: ("BT.601 625", ((0.64, 0.33), (0.29, 0.6), (0.15, 0.06), D65)),
    6: ("BT.601 525", ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65)),
    7: ("SMPTE 240M", ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65)),
    8: ("film", ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), C)),
    9: ("BT.2020", ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), D65)),
    11: ("DCI-P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), DCI_WHITE)),
    12: ("Display P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65)),
    22: ("EBU 3213", ((0.63, 0.34), (0.295, 0.605), (0.155, 0.077), D65)),
}
ADOBE = ("Adobe RGB", ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65))
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Chromaticities = tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float]]


class Colour(NamedTuple):
    """How RGB codes become light. name: of the primaries.  transfer: H.273 code.

    gamma: of a power law that takes the place of `transfer`; 0 where there is none.
    """

    name: str
    primaries: Chromaticities
    transfer: int
    gamma: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether codes are trained on as they are."""
        return self.primaries == PRIMARIES[BT709][1] and not self.gamma and self.transfer in SDR

    def __str__(self) -> str:
        curve = f"gamma {self.gamma:.3g}" if self.gamma else TRANSFERS.get(self.transfer, "not said")
        return f"{self.name}, {curve}"


def colour_of(primaries: int, transfer: int) -> Colour:
    """What two codes of H.273 say; MediaError if they are unknown.

    Primaries that are not said are BT.709, of PQ and HLG BT.2020.
    """
    if primaries in (0, UNSAID, 3):
        primaries = 9 if transfer in (PQ, HLG) else BT709
    if primaries not in PRIMARIES:
        raise MediaError(
            f"has colour primaries {primaries} of H.273, which are not converted; known: "
            f"{', '.join(name for name, _ in PRIMARIES.values())}"
        )
    if transfer not in TRANSFERS and transfer not in SDR:
        raise MediaError(f"has transfer {transfer} of H.273, which is not known")
    return Colour(*PRIMARIES[primaries], transfer)


def to_display(rgb: np.ndarray, colour: Colour, display: Display) -> NDArray[np.uint8]:
    """uint16 codes (..., 3), full range, of `colour` -> uint8 codes of the display."""
    light = _table(colour.transfer, colour.gamma, display)[rgb]
    if colour.transfer == HLG and not colour.gamma:
        light *= np.maximum(light @ _luminance(colour.primaries), 1e-9)[..., None] ** (HLG_GAMMA - 1)
        light *= HLG_PEAK / WHITE
    if colour.primaries != PRIMARIES[BT709][1]:
        light = light @ to_bt709(colour.primaries).T.astype(np.float32)
    return np.rint(255 * _CODES[display](light.clip(0, 1))).astype(np.uint8)


def _srgb_code(light: Floats) -> Floats:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** np.float32(1 / 2.4) - 0.055)


def _bt1886_code(light: Floats) -> Floats:
    return light ** np.float32(1 / 2.4)


# BT.709 codes are shown by BT.1886, so they are made by its inverse, as swscale and zimg do.
_CODES: dict[Display, Callable[[Floats], Floats]] = {"BT.709": _bt1886_code, "sRGB": _srgb_code}


@lru_cache(8)
def _table(transfer: int, gamma: float, display: Display) -> Floats:
    """(65536,) float32: light of each code, 1 is white; of HLG the scene's, 1 is the camera's most."""
    code = np.arange(65536) / 65535.0
    return np.asarray(code**gamma if gamma else _light(code, transfer, display), np.float32)


def _light(code: NDArray[np.float64], transfer: int, display: Display) -> NDArray[np.float64]:
    if transfer == PQ:  # SMPTE ST 2084, of 10,000 cd/m2
        power = code ** (32 / 2523)
        ratio = np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)
        return 10_000 / WHITE * ratio ** (16384 / 2610)
    if transfer == HLG:  # ITU-R BT.2100, the inverse of its OETF
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    if transfer in (LOG100, LOG316):
        return np.where(code > 0, 10 ** ((2 if transfer == LOG100 else 2.5) * (code - 1)), 0)
    if transfer == DCI:  # SMPTE ST 428-1
        return 52.37 / 48 * code**2.6
    if transfer in (LINEAR, GAMMA28):
        return code if transfer == LINEAR else code**2.8
    if display == "sRGB":
        return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return code**2.4


def _to_xyz(primaries: Chromaticities) -> NDArray[np.float64]:
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries])
    return xyz[:3].T * np.linalg.solve(xyz[:3].T, xyz[3])


def _luminance(primaries: Chromaticities) -> Floats:
    return _to_xyz(primaries)[1].astype(np.float32)


@lru_cache(16)
def to_bt709(primaries: Chromaticities) -> NDArray[np.float64]:
    """(3, 3): linear light of these primaries -> of BT.709, white to white (Bradford)."""
    white = [np.array([x / y, 1, (1 - x - y) / y]) for x, y in (primaries[3], D65)]
    before, after = (_BRADFORD @ xyz for xyz in white)
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(after / before) @ _BRADFORD
    matrix: NDArray[np.float64] = np.linalg.inv(_to_xyz(PRIMARIES[BT709][1])) @ adapt @ _to_xyz(primaries)
    return matrix


def over_white(rgb: NDArray[np.uint8], alpha: np.ndarray) -> NDArray[np.uint8]:
    """uint8 (..., 3) laid over white by uint8 (...) alpha that is not multiplied in, in codes."""
    opacity = alpha[..., None].astype(np.uint16)
    laid = (rgb * opacity + 255 * (255 - opacity) + 127) // 255
    return laid.astype(np.uint8)
