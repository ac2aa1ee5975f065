"""Writes small videos whose frame number is painted into the picture, and reads the number back."""

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

os.environ.setdefault("SVT_LOG", "1")  # errors alone
TICKS_PER_SEC = 1000  # of the time stamps given to write_video
_ROWS, _COLUMNS = 4, 6  # a grid of blocks: two rows of bits, then the same two rows inverted
_X264 = "scenecut=0:bframes=3:b-adapt=0:keyint=20:min-keyint=20"
DEFAULT_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "20", "preset": "veryfast", "x264-params": _X264},
    "libx265": {"crf": "20", "preset": "ultrafast", "x265-params": "log-level=none:bframes=3:keyint=20:scenecut=0"},
    "libvpx-vp9": {"crf": "20", "b": "0", "cpu-used": "8", "deadline": "realtime", "g": "20"},
    "libsvtav1": {"crf": "5", "preset": "8", "g": "20"},
    "mpeg4": {"b": "2000000", "bf": "2", "g": "12", "sc_threshold": "1000000000"},
}


def paint_number(number: int, *, width: int = 96, height: int = 64) -> np.ndarray:
    """A picture (H, W, 3) uint8 that shows ``number`` < 4096 as black and white blocks.

    A flip or a rotation makes it unreadable; the lower half, which repeats the upper one inverted, is the check.
    """
    bits = np.array([number >> bit & 1 for bit in range(2 * _COLUMNS)], dtype=bool).reshape(2, _COLUMNS)  # (2, 6)
    grid = np.concatenate([bits, ~bits])  # (4, 6)
    rows = np.arange(height) * _ROWS // height
    columns = np.arange(width) * _COLUMNS // width
    return np.where(grid[rows][:, columns, None], [220, 200, 180], [20, 30, 50]).astype(np.uint8)


def read_number(frame: Any) -> int:
    """The number painted in a frame (H, W, 3). Raises ValueError where none can be read."""
    picture = np.asarray(frame, dtype=np.float32).mean(axis=-1)  # (H, W)
    height, width = picture.shape
    centers = picture[
        np.ix_(
            [int((row + 0.5) * height / _ROWS) for row in range(_ROWS)],
            [int((column + 0.5) * width / _COLUMNS) for column in range(_COLUMNS)],
        )
    ]
    bits = centers > 127
    if not np.array_equal(bits[:2], ~bits[2:]):
        raise ValueError(f"no number is painted in this picture: {bits.astype(int).tolist()}")
    return sum(int(bit) << place for place, bit in enumerate(bits[:2].ravel()))


def write_video(
    path: Path,
    *,
    num_frames: int = 30,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    width: int = 96,
    height: int = 64,
    fps: int = 25,
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    packet_shift: int = 0,
) -> Path:
    """Writes a video that shows the numbers 0, 1, 2, ... upright when played.

    Args:
        path: the file; its ending chooses the container.
        num_frames: how many frames.
        codec: an encoder of FFmpeg.
        pix_fmt: an FFmpeg pixel format that the encoder takes.
        width: as displayed, that is after rotation.
        height: as displayed.
        fps: evenly spaced frames per second, when ``pts`` is not given.
        pts: time stamp of each frame, in 1 / TICKS_PER_SEC seconds.
        rotation: 0, 90, 180 or 270: degrees counter-clockwise that a player must turn the stored picture.
        options: for the encoder, instead of DEFAULT_OPTIONS.
        container_options: for the muxer.
        packet_shift: ticks taken off all time stamps after encoding; mp4 hides frames before zero by an edit list.
    """
    stamps = [i * TICKS_PER_SEC // fps for i in range(num_frames)] if pts is None else pts
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or DEFAULT_OPTIONS.get(codec, {}))
        stored = np.rot90(paint_number(0, width=width, height=height), -rotation // 90)
        stream.height, stream.width = stored.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, TICKS_PER_SEC)
        if codec == "mpeg4":  # stores at most 16 bits of time base, and wants the frame rate there
            stream.codec_context.time_base = Fraction(1, fps)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, stamp in enumerate(stamps):
            picture = np.rot90(paint_number(number, width=width, height=height), -rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=pix_fmt)
            frame.time_base = Fraction(1, TICKS_PER_SEC)
            frame.pts = stamp
            _mux(container, stream.encode(frame), packet_shift)
        _mux(container, stream.encode(), packet_shift)
    return path


def _mux(container: Any, packets: list[av.Packet], shift: int) -> None:
    for packet in packets:
        ticks = int(shift / TICKS_PER_SEC / packet.time_base)
        packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
        container.mux(packet)


def cut_file(path: Path, target: Path, *, num_bytes: int) -> Path:
    """A copy of the first ``num_bytes`` bytes, as an interrupted download leaves it."""
    target.write_bytes(path.read_bytes()[:num_bytes])
    return target


def decode_plainly(path: Path | str) -> list[np.ndarray]:
    """All frames (H, W, 3) uint8 of the first video stream, upright: one pass of PyAV over every packet.

    A packet that does not decode is passed over.
    """
    frames = []
    with av.open(str(path)) as container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            return []  # nothing can decode it; older PyAV crashes when it tries
        for packet in container.demux(video=0):
            with contextlib.suppress(av.FFmpegError):
                for frame in packet.decode():
                    frames.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
    return frames
