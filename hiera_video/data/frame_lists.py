"""Lists of extracted frames, as SlowFast has them for Something-Something V2: one line for each picture.

    original_vido_id video_id frame_id path labels
    78687 0 0 78687/78687_000001.jpg ""

Of a video's lines only the series matters that they form; see `VideoReader` for how a series is written.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from itertools import groupby

from hiera_video.utils.pathmgr import pathmgr

_HEADER = "original_vido_id video_id frame_id path labels"  # spelt so in the files that people have
_PICTURE = re.compile(r"(.*?)(\d+)(\.\w+)")


def load_frame_list(csv_path: str) -> dict[str, str]:
    """Reads such a list: id of a video -> its series of pictures, such as ``7/7_%06d.jpg#1-117``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of this form, or a video's pictures are not numbered one after the other; names file,
            line and text.
    """
    series = {}
    try:
        with pathmgr.open(csv_path, "rb") as file:
            lines = io.TextIOWrapper(file, encoding="utf-8-sig")
            if next(lines, "").split() != _HEADER.split():
                raise ValueError(f"{csv_path}: line 1 must be {_HEADER!r}")
            for video_id, group in groupby(_split_lines(lines, csv_path), key=lambda row: row[1]):
                if video_id in series:
                    raise ValueError(f"{csv_path}: the lines of video {video_id} are not all together")
                series[video_id] = _join_series([(number, path) for number, _, path in group], csv_path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no list of frames {csv_path}") from error
    return series


def find_series(folder: str) -> str:
    """A local folder of pictures as the series that they form, so that it is listed once and not at each sample.

    The folder itself where it is none, or where its pictures are not numbered one after the other.
    """
    if not os.path.isdir(folder):
        return folder
    matches = [match for name in os.listdir(folder) if (match := _PICTURE.fullmatch(name))]
    pictures = sorted((int(match[2]), os.path.join(folder, match[0])) for match in matches)
    if len(pictures) != len(os.listdir(folder)) or not pictures:
        return folder
    try:
        return _join_series(pictures, folder)
    except ValueError:
        return folder


def _split_lines(lines: Iterator[str], csv_path: str) -> Iterator[tuple[int, str, str]]:
    """(line number, video id, path)."""
    for number, line in enumerate(lines, start=2):
        parts = line.split()
        if len(parts) == 5:
            yield number, parts[0], parts[3]
        elif parts:
            raise ValueError(f"{csv_path}: line {number} is {line.strip()!r}; it must have 5 words: {_HEADER}")


def _join_series(pictures: list[tuple[int, str]], csv_path: str) -> str:
    line, path = pictures[0]
    match = _PICTURE.fullmatch(path)
    if match is None:
        raise ValueError(f"{csv_path}: line {line}: {path!r} is no numbered picture such as 7/7_000001.jpg")
    before, digits, after = match.groups()
    first = int(digits)
    for number, (line, other) in enumerate(pictures, start=first):
        if other != f"{before}{number:0{len(digits)}d}{after}":
            raise ValueError(f"{csv_path}: line {line}: {other!r} does not follow the picture of the line before")
    return f"{before}%0{len(digits)}d{after}#{first}-{first + len(pictures) - 1}"
