"""An HTML page of found clips. It needs no network: thumbnails are part of it, and videos play from where they lie.

Everything that comes from the data (paths, class names) is escaped, and the page's own policy forbids scripts.
"""

from __future__ import annotations

import base64
import bisect
import html
import io
import math
import os
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from hiera_video.video import VideoDecodeError, VideoReader, is_series
from hiera_video.video.shards import split_member

_THUMBNAIL_PX = (384, 288)
_SHORT_SIDE_PX = 216  # of frames as they are decoded
_JPEG_QUALITY = 82
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_PLAYED_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".ogv")
_PLAYED_CODECS = ("h264", "hevc", "vp8", "vp9", "av1")  # hevc: by some
_POLICY = "default-src 'none'; img-src data:; media-src * file:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --paper: #f6f7f9; --card: #fff; --ink: #1d2330; --soft: #667085; --line: #e3e6eb;
  --accent: #2f6fde; --chip: #eef1f6 }
@media (prefers-color-scheme: dark) { :root { --paper: #14171d; --card: #1d222b; --ink: #e8ebf0; --soft: #98a2b3;
  --line: #2c333f; --accent: #7eaaff; --chip: #29303b } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1400px; padding: 28px 24px 48px; background: var(--paper); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { margin: 0 0 4px; font-size: 24px; overflow-wrap: anywhere }
h2 { margin: 32px 0 12px; font-size: 17px }
p { margin: 0 }
.soft { color: var(--soft); font-size: 13px }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)) }
.query { max-width: 420px }
.pair { display: grid; gap: 16px; grid-template-columns: repeat(2, minmax(0, 1fr)); max-width: 860px }
.card { display: flex; flex-direction: column; overflow: hidden; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px }
.query .card { border: 2px solid var(--accent) }
.media { position: relative; aspect-ratio: 16 / 10; background: #0c0e12 }
.media > * { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain }
.none { display: flex; align-items: center; justify-content: center; padding: 16px; color: #98a2b3; text-align: center;
  font-size: 13px; overflow-wrap: anywhere }
.text { display: flex; flex-direction: column; gap: 5px; padding: 10px 12px 12px }
.top { display: flex; justify-content: space-between; font-variant-numeric: tabular-nums }
.score { color: var(--accent); font-weight: 600 }
.name { font-weight: 600 }
.name, .path, .chip { overflow-wrap: anywhere; unicode-bidi: isolate }
.path { user-select: all; font-size: 12px; color: var(--soft) }
.chips { display: flex; flex-wrap: wrap; gap: 6px }
.chip { padding: 1px 8px; border-radius: 9px; background: var(--chip); font-size: 13px }
a { color: var(--accent) }
"""


@dataclass(frozen=True)
class ShownClip:
    """A clip on a page.

    Attributes:
        path: of the video, as `VideoReader` takes it.
        start_sec: time since the first frame; NaN where it is the video's start, or unknown.
        end_sec: likewise, of its end.
        label: name of its class; "" for none.
        row: its number among the embeddings; None for none.
    """

    path: str
    start_sec: float = math.nan
    end_sec: float = math.nan
    label: str = ""
    row: int | None = None


@dataclass(frozen=True)
class _Preview:
    """A clip's thumbnail (JPEG), its video's codec and first time stamp, or the reason why there is none."""

    jpeg: bytes = b""
    codec: str = ""
    first_sec: float = 0.0
    problem: str = ""


def render_search_page(
    query: ShownClip,
    results: Sequence[tuple[ShownClip, float]],
    *,
    title: str,
    facts: Sequence[str] = (),
    page_dir: str | os.PathLike[str],
) -> str:
    """The query, and what was found with its scores, the best first.

    Args:
        query: the clip that was looked for.
        results: found clips and their scores.
        title: of the page.
        facts: lines below the title.
        page_dir: folder that the page will lie in; videos are linked relative to it.
    """
    clips = [query, *(clip for clip, _ in results)]
    cards = [
        _make_card(clip, preview, page_dir, top)
        for clip, preview, top in zip(
            clips,
            _load_previews(clips),
            ["", *(_make_top(f"#{rank}", score) for rank, (_, score) in enumerate(results, start=1))],
            strict=True,
        )
    ]
    found = f'<div class="grid">{"".join(cards[1:])}</div>' if results else "<p>Nothing was found.</p>"
    body = f'<h2>Query</h2><div class="query">{cards[0]}</div><h2>Most similar</h2>{found}'
    return _make_page(title, facts, body)


def render_pairs_page(
    pairs: Sequence[tuple[ShownClip, ShownClip, float]],
    *,
    title: str,
    facts: Sequence[str] = (),
    page_dir: str | os.PathLike[str],
) -> str:
    """Pairs of clips side by side with their scores, the most similar first; arguments as for `render_search_page`."""
    previews = _load_previews([clip for first, second, _ in pairs for clip in (first, second)])
    sections = []
    for number, (first, second, score) in enumerate(pairs):
        cards = (
            _make_card(clip, preview, page_dir)
            for clip, preview in zip((first, second), previews[2 * number : 2 * number + 2], strict=True)
        )
        heading = f'<h2>#{number + 1} &ensp;<span class="score">{score:.4f}</span></h2>'
        sections.append(f'<section>{heading}<div class="pair">{"".join(cards)}</div></section>')
    return _make_page(title, facts, "".join(sections) or "<p>No pairs were found.</p>")


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """Writes a page as UTF-8; bytes of file names that are no text become question marks."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="replace") as file:
        file.write(page)


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
    scheme = _get_scheme(path)
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


def _get_scheme(path: str) -> str:
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


def _load_previews(clips: Sequence[ShownClip]) -> list[_Preview]:
    """One for each clip; each video is opened once."""
    places: dict[str, list[int]] = {}
    for place, clip in enumerate(clips):
        places.setdefault(clip.path, []).append(place)
    previews = [_Preview()] * len(clips)
    for path, group in places.items():
        for place, preview in zip(group, _load_video_previews(path, [clips[i] for i in group]), strict=True):
            previews[place] = preview
    return previews


def _load_video_previews(path: str, clips: Sequence[ShownClip]) -> list[_Preview]:
    try:
        with VideoReader(path, max_short_side_px=_SHORT_SIDE_PX) as reader:
            frames = reader.get_frames([_find_middle(reader, clip) for clip in clips])  # (n, H, W, C)
            first_sec = float(reader.index.pts[0] * reader.index.time_base) if reader.index.pts is not None else 0.0
            return [_Preview(_encode_jpeg(frame), reader.codec, max(first_sec, 0.0)) for frame in frames.numpy()]
    except FileNotFoundError:
        return [_Preview(problem="This video no longer exists.")] * len(clips)
    except (OSError, ValueError, VideoDecodeError):
        return [_Preview(problem="This video cannot be read.")] * len(clips)


def _find_middle(reader: VideoReader, clip: ShownClip) -> int:
    """Position of the frame shown in the middle of a clip."""
    last = len(reader) - 1
    if not reader.fps:
        return last // 2
    start_sec = 0.0 if math.isnan(clip.start_sec) else clip.start_sec
    end_sec = reader.duration_sec if math.isnan(clip.end_sec) else clip.end_sec
    return min(max(bisect.bisect_right(reader.times_sec, (start_sec + end_sec) / 2) - 1, 0), last)


def _encode_jpeg(frame: np.ndarray) -> bytes:
    picture = Image.fromarray(frame)
    picture.thumbnail(_THUMBNAIL_PX)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _explain_unplayable(clip: ShownClip, codec: str) -> str:
    """Why browsers do not play a video; "" where most do."""
    scheme = _get_scheme(clip.path)
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


def _make_card(clip: ShownClip, preview: _Preview, page_dir: str | os.PathLike[str], top: str = "") -> str:
    note = "" if preview.problem else _explain_unplayable(clip, preview.codec)
    url = make_url(clip.path, page_dir)
    chips = [clip.label, format_span(clip.start_sec, clip.end_sec), "" if clip.row is None else f"row {clip.row}"]
    shown = "".join(f'<span class="chip">{_escape(chip)}</span>' for chip in chips if chip)
    if note and url and preview.codec != "pictures" and split_member(clip.path) is None:
        note += " Open the file"
        remark = f'<p class="soft">{_escape(note)} <a href="{_escape(url)}">in a player</a>.</p>'
    else:
        remark = f'<p class="soft">{_escape(note)}</p>' if note else ""
    return (
        f'<article class="card"><div class="media">{_make_media(clip, preview, url, is_played=not note)}</div>'
        f'<div class="text">{top}<p class="name">{_escape(_get_name(clip.path))}</p>'
        f'<div class="chips">{shown}</div>{remark}<p class="path">{_escape(clip.path)}</p></div></article>'
    )


def _make_media(clip: ShownClip, preview: _Preview, url: str | None, *, is_played: bool) -> str:
    if preview.problem:
        return f'<p class="none">{_escape(preview.problem)}</p>'
    picture = f"data:image/jpeg;base64,{base64.b64encode(preview.jpeg).decode()}"
    if not is_played or url is None:
        return f'<img src="{picture}" alt="">'
    source = url.partition("#")[0] + _make_fragment(clip, preview.first_sec)
    return f'<video controls playsinline preload="none" poster="{picture}" src="{_escape(source)}"></video>'


def _make_top(rank: str, score: float) -> str:
    return f'<div class="top"><span class="soft">{rank}</span><span class="score">{score:.4f}</span></div>'


def _get_name(path: str) -> str:
    member = split_member(path)
    if member is not None:
        path = member[1]
    elif is_series(path):
        path = os.path.dirname(path)
    elif _get_scheme(path):
        path = urllib.parse.unquote(re.split("[?#]", path)[0])
    return os.path.basename(path.rstrip("/")) or path


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _make_page(title: str, facts: Iterable[str], body: str) -> str:
    lines = "".join(f'<p class="soft">{_escape(fact)}</p>' for fact in facts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="referrer" content="no-referrer">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><header><h1>{_escape(title)}</h1>{lines}</header>\n<main>{body}</main></body></html>\n"
    )
