"""Clips as pages show them: a thumbnail of the middle, and a player of just the clip where browsers can play it."""

from __future__ import annotations

import bisect
import io
import math
import os
import re
import tempfile
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageOps

from hiera_video.report.page import make_data_uri
from hiera_video.video import VideoDecodeError, VideoReader, is_series
from hiera_video.video.shards import split_member
from hiera_video.video.writer import VideoWriter

_THUMBNAIL_PX = (384, 288)
_SHORT_SIDE_PX = 216  # of frames as they are decoded
_JPEG_QUALITY = 82
_COPY_SEC, _COPY_FPS, _COPY_SHORT_SIDE_PX = 2.5, 10, 144
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_PLAYED_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".ogv")
_PLAYED_CODECS = ("h264", "hevc", "vp8", "vp9", "av1")  # hevc: by some


@dataclass(frozen=True)
class ShownClip:
    """A clip on a page.

    Attributes:
        path: of the video, as `VideoReader` takes it.
        start_sec: time since the first frame; NaN where it is the video's start, or unknown.
        end_sec: likewise, of its end.
        label: name of its class; "" for none.
        row: its number among the embeddings; None for none.
        center_sec: length of the clip where it lies in the middle of its video, and its times are not given; NaN for
            the whole video.
    """

    path: str
    start_sec: float = math.nan
    end_sec: float = math.nan
    label: str = ""
    row: int | None = None
    center_sec: float = math.nan


@dataclass(frozen=True)
class ClipCard:
    """What the template of a clip shows of it, see ``clip`` in ``macros.html``.

    Attributes:
        name: of the file.
        path: in full.
        chips: short texts.
        picture: an address that holds the thumbnail; "" where there is none.
        source: address of the video with the clip's times; "" where browsers do not play it.
        note: why they do not.
        link: address of the file, beside the note.
        problem: why there is no picture.
    """

    name: str
    path: str
    chips: Sequence[str]
    picture: str = ""
    source: str = ""
    note: str = ""
    link: str = ""
    problem: str = ""


@dataclass(frozen=True)
class _Preview:
    """A clip's thumbnail (JPEG), its video's codec and first time stamp, or the reason why there is none.

    ``span_sec`` are its times where it lies in the middle of its video.
    """

    jpeg: bytes = b""
    codec: str = ""
    first_sec: float = 0.0
    problem: str = ""
    span_sec: tuple[float, float] | None = None
    copy: bytes = b""


def load_cards(
    clips: Sequence[ShownClip], page_dir: str | os.PathLike[str], *, with_copies: bool = False
) -> list[ClipCard]:
    """What a page shows of each clip. Each video is opened once; what cannot be read is said.

    Args:
        clips: the clips.
        page_dir: folder that the page will lie in.
        with_copies: whether what browsers do not play is shown by a small copy of its first seconds inside the page.
    """
    pairs = zip(clips, _load_previews(clips, with_copies), strict=True)
    return [_make_card(_place(clip, preview.span_sec), preview, page_dir) for clip, preview in pairs]


def load_stills(clips: Sequence[ShownClip], size_px: tuple[int, int]) -> list[Image.Image | None]:
    """A small RGB picture of each clip's middle, cut to a size (width, height); None where its video cannot be read."""
    jpegs = [preview.jpeg for preview in _load_previews(clips, False)]
    return [ImageOps.fit(Image.open(io.BytesIO(jpeg)), size_px) if jpeg else None for jpeg in jpegs]


def format_span(start_sec: float, end_sec: float) -> str:
    """``0:12.00-0:14.13``; "" where neither end is known."""
    if math.isnan(start_sec) and math.isnan(end_sec):
        return ""
    start = 0.0 if math.isnan(start_sec) else start_sec
    return f"{_format_time(start)}-{'end' if math.isnan(end_sec) else _format_time(end_sec)}"


def make_url(path: str, page_dir: str | os.PathLike[str]) -> str | None:
    """The address by which a page in ``page_dir`` finds a video; None where browsers cannot read it.

    http:// and https:// addresses stay unchanged. A local path becomes relative to the page, or a file:// address if it
    lies on another drive; it is percent-encoded.
    """
    scheme = find_scheme(path)
    if scheme in ("http", "https"):
        return path
    if scheme == "file":
        path = path[len("file://") :]
    elif scheme:
        return None
    path = os.path.abspath(path)
    try:
        local, prefix, safe = os.path.relpath(path, os.path.abspath(page_dir)), "", "/"
    except ValueError:
        local, prefix, safe = path.lstrip(os.sep), "file:///", "/:"
    return prefix + urllib.parse.quote(os.fsencode(local.replace(os.sep, "/")), safe=safe)


def find_scheme(path: str) -> str:
    """``https`` of ``https://host/a.mp4``; "" for a local path."""
    match = _SCHEME.match(path)
    return match[1].lower() if match else ""


def _format_time(seconds: float) -> str:
    hundredths = round(seconds * 100)
    minutes, hundredths = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{clock}:{hundredths // 100:02d}.{hundredths % 100:02d}"


def _make_fragment(clip: ShownClip, first_sec: float) -> str:
    """The media fragment that makes a browser play the clip alone, by the file's own clock."""
    if math.isnan(clip.start_sec) and math.isnan(clip.end_sec):
        return ""
    start_sec = first_sec + (0.0 if math.isnan(clip.start_sec) else clip.start_sec)
    return f"#t={start_sec:.2f}" + ("" if math.isnan(clip.end_sec) else f",{first_sec + clip.end_sec:.2f}")


def _load_previews(clips: Sequence[ShownClip], with_copies: bool) -> list[_Preview]:
    """One for each clip; each video is opened once."""
    places: dict[str, list[int]] = {}
    for place, clip in enumerate(clips):
        places.setdefault(clip.path, []).append(place)
    previews = [_Preview()] * len(clips)
    for path, group in places.items():
        loaded = _load_video_previews(path, [clips[i] for i in group], with_copies)
        for place, preview in zip(group, loaded, strict=True):
            previews[place] = preview
    return previews


def _load_video_previews(path: str, clips: Sequence[ShownClip], with_copies: bool) -> list[_Preview]:
    try:
        with VideoReader(path, max_short_side_px=_SHORT_SIDE_PX) as reader:
            spans = [_find_center(reader, clip) for clip in clips]
            clips = [_place(clip, span) for clip, span in zip(clips, spans, strict=True)]
            places = [_find_middle(reader, clip) for clip in clips]
            copies = [_make_copy(reader, clip) if with_copies else b"" for clip in clips]
            frames = reader.get_frames(places)  # (n, H, W, C)
            first_sec = float(reader.index.pts[0] * reader.index.time_base) if reader.index.pts is not None else 0.0
            return [
                _Preview(_encode_jpeg(frame), reader.codec, max(first_sec, 0.0), span_sec=span, copy=copy)
                for frame, span, copy in zip(frames.numpy(), spans, copies, strict=True)
            ]
    except FileNotFoundError:
        return [_Preview(problem="This video no longer exists.")] * len(clips)
    except (OSError, ValueError, VideoDecodeError):
        return [_Preview(problem="This video cannot be read.")] * len(clips)


def _place(clip: ShownClip, span_sec: tuple[float, float] | None) -> ShownClip:
    return clip if span_sec is None else replace(clip, start_sec=span_sec[0], end_sec=span_sec[1])


def _find_center(reader: VideoReader, clip: ShownClip) -> tuple[float, float] | None:
    """Start and end of a clip that lies in the middle of its video and is shorter than it."""
    spare_sec = reader.duration_sec - clip.center_sec if reader.fps else math.nan
    return (spare_sec / 2, spare_sec / 2 + clip.center_sec) if spare_sec > 0 else None


def _find_middle(reader: VideoReader, clip: ShownClip) -> int:
    """Position of the frame shown in the middle of a clip."""
    last = len(reader) - 1
    if not reader.fps:
        return last // 2
    start_sec = 0.0 if math.isnan(clip.start_sec) else clip.start_sec
    end_sec = reader.duration_sec if math.isnan(clip.end_sec) else clip.end_sec
    return min(max(bisect.bisect_right(reader.times_sec, (start_sec + end_sec) / 2) - 1, 0), last)


def _make_copy(reader: VideoReader, clip: ShownClip) -> bytes:
    """The first seconds of a clip as a small H.264 file; nothing where browsers play the video, or it does not move."""
    if not _explain_unplayable(clip, reader.codec):
        return b""
    if reader.fps:
        start_sec = 0.0 if math.isnan(clip.start_sec) else clip.start_sec
        end_sec = min(reader.duration_sec if math.isnan(clip.end_sec) else clip.end_sec, start_sec + _COPY_SEC)
        times_sec = np.arange(start_sec, end_sec, 1 / _COPY_FPS)
        found = [max(bisect.bisect_right(reader.times_sec, time_sec) - 1, 0) for time_sec in times_sec.tolist()]
    else:  # pictures without times
        found = list(range(min(len(reader), round(_COPY_SEC * _COPY_FPS))))
    if len(set(found)) < 2:
        return b""
    frames = reader.get_frames(found).numpy()  # (n, H, W, C)
    scale = min(_COPY_SHORT_SIDE_PX / min(frames.shape[1:3]), 1.0)
    width, height = (max(round(scale * side / 2), 1) * 2 for side in (frames.shape[2], frames.shape[1]))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "copy.mp4")
        with VideoWriter(path, width_px=width, height_px=height, fps=_COPY_FPS) as writer:
            for number, frame in enumerate(frames):
                writer.write(np.asarray(Image.fromarray(frame).resize((width, height))), number / _COPY_FPS)
        with open(path, "rb") as file:
            return file.read()


def _encode_jpeg(frame: np.ndarray) -> bytes:
    picture = Image.fromarray(frame)
    picture.thumbnail(_THUMBNAIL_PX)
    return encode_jpeg(picture)


def encode_jpeg(picture: Image.Image) -> bytes:
    """A picture as a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _explain_unplayable(clip: ShownClip, codec: str) -> str:
    """Why browsers do not play a video; "" where most do."""
    scheme = find_scheme(clip.path)
    suffix = os.path.splitext(_get_name(clip.path))[1].lower()
    if codec == "pictures" or is_series(clip.path):
        return "Pictures, so there is nothing to play."
    if split_member(clip.path) is not None:
        return "Inside a tar file, where browsers do not look."
    if scheme not in ("", "file", "http", "https"):
        return f"Browsers do not open {scheme}://."
    if suffix not in _PLAYED_SUFFIXES and not (suffix == "" and scheme.startswith("http")):
        return f"Browsers do not play {suffix or 'files without a suffix'}."
    if codec not in _PLAYED_CODECS:
        return f"Browsers do not play {codec} video."
    return ""


def _make_card(clip: ShownClip, preview: _Preview, page_dir: str | os.PathLike[str]) -> ClipCard:
    chips = [clip.label, format_span(clip.start_sec, clip.end_sec), "" if clip.row is None else f"row {clip.row}"]
    name, chips = _get_name(clip.path), [chip for chip in chips if chip]
    if preview.problem:
        return ClipCard(name, clip.path, chips, problem=preview.problem)
    note, url = _explain_unplayable(clip, preview.codec), make_url(clip.path, page_dir) or ""
    link = url if note and preview.codec != "pictures" and split_member(clip.path) is None else ""
    source = "" if note or not url else url.partition("#")[0] + _make_fragment(clip, preview.first_sec)
    if preview.copy:
        source, note = make_data_uri(preview.copy, "video/mp4"), f"{note} This is a small copy of its beginning."
    return ClipCard(
        name=name,
        path=clip.path,
        chips=chips,
        picture=make_data_uri(preview.jpeg),
        source=source,
        note=note,
        link=link,
    )


def _get_name(path: str) -> str:
    member = split_member(path)
    if member is not None:
        path = member[1]
    elif is_series(path):
        path = os.path.dirname(path)
    elif find_scheme(path):
        path = urllib.parse.unquote(re.split("[?#]", path)[0])
    return os.path.basename(path.rstrip("/")) or path
