"""Single pictures of awkward kinds, as files and inside archives."""

import io

import numpy as np
import pytest
from PIL import Image

from hiera_video.video import VideoDecodeError, VideoReader
from hiera_video.video.image_backend import decode_image, name_tar_member, read_image_bytes

RGB = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)


def encode(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_picture_is_a_video_of_one_frame(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(RGB)))
    with VideoReader(tmp_path / "a.png") as reader:
        assert (len(reader), reader.fps, reader.codec, reader.height, reader.width) == (1, 0, "image", 24, 30)
        assert np.array_equal(reader.get_frames([0, 0]).numpy(), np.stack([RGB, RGB]))


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.fromarray(RGB[..., 0]), np.repeat(RGB[..., :1], 3, axis=2)),
        (Image.fromarray(np.dstack([RGB, RGB[..., 0]])), RGB),
        (Image.fromarray(RGB[..., 0].astype(np.uint16) * 257), np.repeat(RGB[..., :1], 3, axis=2)),
        (Image.fromarray(RGB).quantize(256), np.asarray(Image.fromarray(RGB).quantize(256).convert("RGB"))),
    ],
    ids=["gray", "transparent", "16 bit", "palette"],
)
def test_every_mode_becomes_rgb(picture, expected):
    assert np.array_equal(decode_image(encode(picture)), expected)


def test_cmyk_and_webp():
    cmyk = Image.fromarray(RGB).convert("CMYK")
    got = decode_image(encode(cmyk, "JPEG", quality=95))
    assert got.shape == RGB.shape and got.dtype == np.uint8
    assert np.array_equal(decode_image(encode(Image.fromarray(RGB), "WEBP", lossless=True)), RGB)


@pytest.mark.parametrize("damage", ["none", "cut", "changed"])
@pytest.mark.parametrize("options", [{}, {"quality": 50, "progressive": True}, {"subsampling": 0}], ids=str)
def test_jpegs_give_the_pixels_of_pillow_or_are_refused_as_there(options, damage):
    rng = np.random.default_rng(0)
    for picture in (Image.fromarray(RGB).resize((67, 49)), Image.fromarray(RGB[..., 0])):
        whole = encode(picture, "JPEG", **options)
        for _ in range(1 if damage == "none" else 50):
            data = bytearray(whole)
            if damage == "cut":
                data = data[: rng.integers(len(data))]
            elif damage == "changed":
                data[rng.integers(20, len(data))] = rng.integers(256)
            try:
                expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            except (OSError, SyntaxError):
                with pytest.raises((OSError, SyntaxError)):
                    decode_image(bytes(data))
                continue
            assert np.array_equal(decode_image(bytes(data)), expected)


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_a_rotation_is_applied(orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode_image(encode(Image.fromarray(RGB), exif=exif)), np.rot90(RGB, turn))


@pytest.mark.parametrize("kind", ["text", "empty", "cut"])
def test_a_broken_picture_is_named(kind, tmp_path):
    data = {"text": b"<html>", "empty": b"", "cut": encode(Image.fromarray(RGB), "JPEG")[:300]}[kind]
    (tmp_path / "a.jpg").write_bytes(data)
    with VideoReader(tmp_path / "a.jpg") as reader, pytest.raises(VideoDecodeError, match=r"a\.jpg.*does not decode"):
        reader.get_frames([0])


def test_a_missing_picture_archive_or_place_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: no such file"):
        VideoReader(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tar::a\.png@0\+5: no such file"):
        VideoReader(name_tar_member(str(tmp_path / "nowhere.tar"), "a.png", offset=0, size=5))
    (tmp_path / "a.tar").write_bytes(bytes(10))
    with pytest.raises(OSError, match="the archive ends before"):
        read_image_bytes(name_tar_member(str(tmp_path / "a.tar"), "a.png", offset=5, size=10))
    with pytest.raises(ValueError, match="after '::' comes NAME@OFFSET"):
        read_image_bytes(f"{tmp_path}/a.tar::a.png")


def test_scaled_decoding_keeps_the_short_side_long_enough(tmp_path):
    data = encode(Image.fromarray(RGB).resize((400, 300)), "JPEG")
    shapes = {px: decode_image(data, max_short_side_px=px).shape[:2] for px in (0, 37, 100, 150, 151)}
    assert shapes == {0: (300, 400), 37: (38, 50), 100: (150, 200), 150: (150, 200), 151: (300, 400)}
    (tmp_path / "a.jpg").write_bytes(data)
    with VideoReader(tmp_path / "a.jpg", max_short_side_px=100) as reader:
        assert reader.get_frames([0]).shape == (1, 150, 200, 3)
