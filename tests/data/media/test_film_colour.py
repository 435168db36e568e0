"""Colours of films against the closed forms of BT.2100, BT.1886 and the matrices, and against swscale."""

import io
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from data.media.clips import ClipConfig
from data.media.colour import PRIMARIES, to_bt709
from data.media.film.looks import look_of, to_rgb
from data.media.formats import DEFAULT_LIMITS, MediaError
from data.media.images import check, decode_video, encode_mp4, probe
from data.media.remux import clips_of, copy_clip
from tests.data.colours import (
    BT2020_TO_BT709,
    P3_TO_BT709,
    SHARP,
    bt709_code,
    coloured_film,
    hlg_light,
    patches,
    pq,
    profile,
)
from tests.data.ffmpeg import require_ffmpeg
from tests.data.films import copied
from tests.data.samples import clip, image_bytes
from tests.data.videos import encoded_video

GREYS = np.array([0, 1, 5, 10, 50, 100, 150, 203, 400, 1000.0])  # cd/m2
COLOURS = np.array([[100, 100, 100], [150, 60, 40], [50, 120, 60], [40, 40, 150], [203, 0, 0], [10, 9, 8]])


def seen(data: bytes, **options: object) -> np.ndarray:
    """Return the middle of each patch of a film's first frame, int (N, 3)."""
    return decode_video(data, frames=(0, 1, 1), **options)[0, 16, 8::16].astype(int)


def test_pq_is_brought_to_bt709_with_203_as_white() -> None:
    data = coloured_film(pq(GREYS)[:, None].repeat(3, 1), primaries=9, transfer=16)
    expected = bt709_code(GREYS / 203)[:, None]
    assert np.abs(seen(data) - expected).max() <= 1
    assert seen(data)[7].tolist() == [255, 255, 255]
    assert probe(data).found["colour"] == check(data).found["colour"] == "BT.2020, PQ"
    assert seen(data, colour="keep")[7].tolist() == [149, 149, 149]
    assert probe(data, colour="keep").found["colour"] == "BT.2020, PQ, kept"
    with pytest.raises(MediaError, match=r"has colours BT\.2020, PQ, and colour=refuse"):
        decode_video(data, colour="refuse")
    with pytest.raises(MediaError, match="colour=refuse"):
        probe(data, colour="refuse")


def test_colours_of_pq_are_those_of_the_matrix_clipped_in_linear_light() -> None:
    data = coloured_film(pq(COLOURS), primaries=9, transfer=16)
    assert np.abs(seen(data) - bt709_code(COLOURS / 203 @ BT2020_TO_BT709.T)).max() <= 2


def test_hlg_is_shown_as_on_a_display_of_1000() -> None:
    codes = np.array([0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.75, 0.9])
    data = coloured_film(codes[:, None].repeat(3, 1), primaries=9, transfer=18)
    expected = bt709_code(1000 * hlg_light(codes) ** 1.2 / 203)[:, None]
    assert np.abs(seen(data) - expected).max() <= 1
    assert seen(data)[6].tolist() == [255, 255, 255]  # 75 % is the white of graphics
    colours = np.array([[0.6, 0.4, 0.3], [0.3, 0.6, 0.3]])
    light = hlg_light(colours)
    shown = 1000 * light * (light @ [[0.2627], [0.678], [0.0593]]) ** 0.2 / 203
    data = coloured_film(colours, primaries=9, transfer=18)
    assert np.abs(seen(data) - bt709_code(shown @ BT2020_TO_BT709.T)).max() <= 2


@pytest.mark.parametrize(
    ("primaries", "matrix"), [(9, BT2020_TO_BT709), (12, P3_TO_BT709)], ids=["BT.2020", "Display P3"]
)
def test_wide_gamut_with_an_sdr_transfer(primaries: int, matrix: np.ndarray) -> None:
    codes = np.array([[0.5, 0.5, 0.5], [0.7, 0.4, 0.3], [0.3, 0.6, 0.4], [0, 1, 0]])
    data = coloured_film(codes, primaries=primaries, transfer=1)
    assert np.abs(seen(data) - bt709_code(codes**2.4 @ matrix.T)).max() <= 1


def test_greys_agree_with_swscale() -> None:
    frame = patches(pq(GREYS)[:, None].repeat(3, 1))
    frame.color_primaries, frame.color_trc = 9, 16
    theirs = VideoReformatter().reformat(
        frame, format="gbrp", dst_color_trc=1, dst_color_primaries=1, interpolation=SHARP, threads=1
    )
    plane = np.frombuffer(memoryview(theirs.planes[0]), np.uint8).reshape(-1, theirs.planes[0].line_size)
    ours = seen(coloured_film(pq(GREYS)[:, None].repeat(3, 1), primaries=9, transfer=16))[:, 1]
    assert np.abs(plane[16, 8 : 16 * len(GREYS) : 16] - ours).max() <= 1


def test_conversion_uses_more_than_8_bits() -> None:
    """PQ of 8 bits has 19 codes between 100 and 203 cd/m2, which are 66 levels of BT.709."""
    light = np.linspace(100, 203, 300)
    data = coloured_film(pq(light)[:, None].repeat(3, 1), primaries=9, transfer=16)
    assert len(np.unique(np.round(255 * pq(light)))) == 19
    assert len(np.unique(seen(data)[:, 1])) >= 60


def test_what_the_container_says_stands_where_the_codec_says_nothing() -> None:
    """ProRes writes that its colours are unknown; QuickTime has them beside it."""
    codes = pq(GREYS)[:, None].repeat(3, 1)
    data = coloured_film(
        codes, primaries=9, transfer=16, codec="prores_ks", container="mov", format="yuv422p10le"
    )
    assert probe(data).found["colour"] == "BT.2020, PQ"
    assert np.abs(seen(data) - bt709_code(GREYS / 203)[:, None]).max() <= 4


@pytest.mark.parametrize("transfer", [1, 2, 6, 13, 14, 15])
def test_sdr_codes_are_kept(transfer: int) -> None:
    codes = np.array([[0.2, 0.5, 0.8], [0.9, 0.1, 0.3]])
    data = coloured_film(codes, primaries=1, transfer=transfer, matrix=1)
    assert np.abs(seen(data) - np.round(255 * codes)).max() <= 1
    assert "colour" not in probe(data).found


@pytest.mark.parametrize(
    ("size", "matrix"), [((1280, 720), 1), ((720, 1280), 1), ((64, 1280), 1), ((720, 576), 5), ((64, 48), 5)]
)
def test_untagged_films_are_bt709_in_hd_and_bt601_below(size: tuple[int, int], matrix: int) -> None:
    frame = av.VideoFrame.from_ndarray(
        np.full((size[1], size[0], 3), (200, 30, 40), np.uint8), format="rgb24"
    )
    yuv = VideoReformatter().reformat(frame, format="yuv444p", dst_colorspace=matrix, threads=1)
    yuv.colorspace = 2
    look = look_of(yuv, "convert")
    rgb = VideoReformatter().reformat(yuv, format="gbrp", src_colorspace=look.matrix, threads=1)
    assert np.abs(np.array([p[5, 5] for p in to_rgb(rgb, look)]) - (200, 30, 40.0)).max() <= 2
    if size == (64, 48):
        assert "matrix" not in probe(encoded_video(clip())).found


@pytest.mark.parametrize(
    ("field", "code", "named"), [("primaries", 10, "primaries 10"), ("matrix", 14, "14")]
)
def test_colours_that_are_not_converted_are_named(field: str, code: int, named: str) -> None:
    frame = patches(np.array([[0.5, 0.5, 0.5]]))
    frame.colorspace = code if field == "matrix" else 9
    frame.color_primaries = code if field == "primaries" else 9
    with pytest.raises(MediaError, match=named):
        look_of(frame, "convert")


@pytest.mark.parametrize("code", sorted(PRIMARIES))
def test_white_stays_white_and_bt709_what_it_is(code: int) -> None:
    matrix = to_bt709(PRIMARIES[code][1])
    assert np.allclose(matrix.sum(1), 1, atol=1e-9)
    if code == 1:
        assert np.allclose(matrix, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("codec", "container", "format"),
    [
        ("qtrle", "mov", "argb"),
        ("png", "mov", "rgba"),
        ("prores_ks", "mov", "yuva444p10le"),
        ("ffv1", "matroska", "yuva420p"),
        ("libvpx-vp9", "webm", "yuva420p"),
    ],
)
def test_alpha_of_films_is_laid_over_white(codec: str, container: str, format: str) -> None:
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[..., :3] = (200, 60, 30)
    pixels[..., 3] = np.arange(64) * 4
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=8, options={"crf": "4", "b": "0"} if "vpx" in codec else {})
        stream.width, stream.height, stream.pix_fmt = 64, 32, format
        if "vpx" in codec:
            stream.metadata["alpha_mode"] = "1"
        source = av.VideoFrame.from_ndarray(pixels, format="rgba")
        for number in range(3):
            frame = source.reformat(format=format)
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    opacity = pixels[..., 3:] / 255
    expected = pixels[..., :3] * opacity + 255 * (1 - opacity)
    assert np.abs(decode_video(file.getvalue())[1] - expected).mean() < 2
    assert probe(file.getvalue()).found["alpha"] == "transparent"


def test_clips_of_prores_are_decoded_at_its_own_depth() -> None:
    """4444 is decoded to 12 bits, 422 to 10; only the tag in QuickTime's table tells them apart."""
    codes = np.linspace(0.1, 0.9, 9).reshape(3, 3)
    tags = {"primaries": 1, "transfer": 1, "matrix": 1, "format": "yuva444p10le"}
    data = coloured_film(codes, codec="prores_ks", container="mov", **tags)
    clips, _ = clips_of(data, ClipConfig(length_s=1 / 8), DEFAULT_LIMITS)
    assert clips is not None
    copy = copy_clip(io.BytesIO(data), clips[1], DEFAULT_LIMITS)
    with av.open(io.BytesIO(data)) as whole, av.open(io.BytesIO(copy)) as part:
        assert [next(film.decode(video=0)).format.name for film in (whole, part)] == ["yuva444p12le"] * 2
    assert np.array_equal(decode_video(copy)[0], decode_video(data)[1])


def test_our_own_films_are_read_as_they_were(tmp_path) -> None:
    encode_mp4(tmp_path / "a.mp4", clip(), 8)
    data = (tmp_path / "a.mp4").read_bytes()
    assert np.array_equal(decode_video(data), decode_video(data, colour="keep"))
    assert not {"colour", "matrix", "alpha"} & probe(data).found.keys()


@pytest.mark.parametrize("container", ["avi", "mov"])
def test_films_of_a_palette(container: str) -> None:
    """Demuxers tell the palette once, with the first packet that is read."""
    codes = np.random.default_rng(0).integers(0, 256, (5, 48, 64)).astype(np.uint8)
    palette = np.random.default_rng(1).integers(0, 256, (256, 4)).astype(np.uint8)
    palette[:, 0] = 255  # alpha; then red, green, blue
    file = io.BytesIO()
    with av.open(file, "w", format=container) as film:
        stream = film.add_stream("rawvideo" if container == "avi" else "smc", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for number, picture in enumerate(codes):
            frame = av.VideoFrame.from_ndarray((picture, palette), format="pal8")
            frame.pts = number
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    expected = palette[codes][..., 1:]
    assert check(file.getvalue()).found["rules"] == "a film of a palette, since media rules 2"
    assert np.array_equal(decode_video(file.getvalue()), expected)
    assert np.array_equal(decode_video(file.getvalue(), frames=(3, 1, 1))[0], expected[3])
    if container == "mov":  # of one keyframe
        return
    with pytest.raises(MediaError, match="cannot be cut: its palette stands before its first frame alone"):
        clips_of(file.getvalue(), ClipConfig(length_s=0.25), DEFAULT_LIMITS)


def test_colours_that_change_within_a_film_are_told_and_converted() -> None:
    parts = {}
    for primaries, transfer in (("bt709", "bt709"), ("bt2020", "smpte2084")):
        parts[transfer] = encoded_video(
            np.full((4, 32, 32, 3), 149, np.uint8),
            "h264",
            bf="0",
            **{"x264-params": f"repeat-headers=1:colorprim={primaries}:transfer={transfer}"},
        )
    data = copied(b"".join(parts.values()), "matroska")
    assert check(data).found["colour"] == "BT.2020, PQ"
    shown = decode_video(data)[:, 16, 16]
    assert abs(int(shown[0, 1]) - 149) <= 1
    assert (shown[5] == 255).all()


def test_dolby_vision_without_a_base_layer_is_named() -> None:
    codes = pq(GREYS)[:, None].repeat(3, 1)
    tags = {"matrix": 2, "primaries": 2, "format": "yuv420p10le"}
    data = coloured_film(codes, transfer=2, codec="libx265", container="mp4", **tags)
    probe(data)
    marked = data.replace(b"hev1", b"dvhe").replace(b"hvc1", b"dvh1")
    assert marked != data
    with pytest.raises(MediaError, match="is Dolby Vision without a base layer"):
        probe(marked)


@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
def test_light_is_that_of_ffmpegs_zscale(transfer: int, tmp_path: Path) -> None:
    """HLG is compared for grey only: zimg applies the system gamma to each channel, BT.2100 to luminance."""
    require_ffmpeg()
    codes = pq(COLOURS[[0, 1, 2, 3, 5]]) if transfer == 16 else np.linspace(0, 0.75, 6)[:, None].repeat(3, 1)
    (tmp_path / "hdr.mkv").write_bytes(coloured_film(codes, primaries=9, transfer=transfer))
    chain = (
        "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709,"
        "zscale=t=bt709:m=bt709:r=limited,format=yuv444p12le"
    )
    command = ["ffmpeg", "-v", "error", "-i", "hdr.mkv", "-vf", chain, "-c:v", "ffv1", "sdr.mkv"]
    subprocess.run(command, cwd=tmp_path, check=True)
    theirs, ours = (seen((tmp_path / name).read_bytes()) for name in ("sdr.mkv", "hdr.mkv"))
    assert np.abs(theirs - ours).max() <= 2


@pytest.mark.parametrize(("name", "scale"), [("gray", 1), ("gray10le", 4)])
def test_grey_of_limited_range_is_brought_to_full(name: str, scale: int) -> None:
    """As the luma of colour films is; swscale takes all grey for full."""
    luma = np.array([16, 126, 235]).repeat(16).astype("<u2" if scale > 1 else np.uint8) * scale
    for stated, expected in ((1, [0, 128, 255]), (2, [16, 126, 235])):
        file = io.BytesIO()
        with av.open(file, "w", format="matroska") as container:
            stream = container.add_stream("ffv1", rate=8)
            stream.height, stream.width, stream.pix_fmt = 32, 48, name
            stream.codec_context.color_range = stated
            frame = av.VideoFrame.from_ndarray(luma[None].repeat(32, 0).copy(), format=name)
            frame.color_range = stated
            container.mux([*stream.encode(frame), *stream.encode()])
        pixels = decode_video(file.getvalue())[0, 16, 8::16, 1]
        assert np.abs(pixels.astype(int) - expected).max() <= 1
        assert ("rules" in check(file.getvalue()).found) == (stated == 1)


def test_a_film_of_a_log_curve_is_judged_by_its_luma() -> None:
    """Before `idet`, FFmpeg scales what it does not take, and knows no log curve there."""
    data = coloured_log_film()
    assert check(data).found["colour"] == "BT.709, log 100"
    assert decode_video(data).shape == (3, 96, 128, 3)


def coloured_log_film() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "bgr0"
        stream.codec_context.color_trc = 9
        for pixels in clip(3, 96, 128):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="bgr0")
            frame.color_trc = 9
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def test_profiles_in_films_are_said_or_refused() -> None:
    """A film of PNG with a profile ended the process, once its side data were looked at."""
    assert check(film_with_a_profile("JPEG", "mjpeg", "yuvj420p")).found["film_profile"] == "not applied"
    with pytest.raises(MediaError, match="a film of PNG pictures with an ICC profile, which is not read"):
        check(film_with_a_profile("PNG", "png", "rgb24"))


def film_with_a_profile(kind: str, codec: str, format: str) -> bytes:
    picture, file = clip(1)[0], io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = format
        packet = av.Packet(image_bytes(picture, kind, icc_profile=profile()))
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 8), stream, True
        container.mux(packet)
    return file.getvalue()
