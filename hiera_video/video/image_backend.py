"""Single pictures as videos of one frame: files, members of tar archives, rows of Parquet files.

A picture that lies inside another file is named by a path of its own, which says where its bytes are, so that any
process can read it without an index: ``train.tar::n01440764/n01440764_18.JPEG@1536+13697`` (offset and size in bytes),
``train-00000.parquet::3/12`` (row group and row).
"""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import simplejpeg
from PIL import Image, ImageOps

from hiera_video.utils.pathmgr import fetch_file, get_path_here
from hiera_video.video.file_cache import FileCache
from hiera_video.video.index import FrameIndex, VideoDecodeError
from hiera_video.video.shards import split_member
from hiera_video.video.source import find_source

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SEPARATOR = "::"
_TAR_MEMBER = re.compile(r"(?P<name>.*)@(?P<offset>\d+)\+(?P<size>\d+)")
_PARQUET_ROW = re.compile(r"(?P<group>\d+)/(?P<row>\d+)")
_ROW_GROUPS_KEPT = 4
_ORIENTATION = 0x0112  # EXIF
_BYTE_OF_16_BITS = 257  # 65535 / 255


def is_image_path(path: str) -> bool:
    """Whether a path names one picture: a file by its ending, or a place inside an archive."""
    return path.lower().endswith(IMAGE_SUFFIXES) or (_SEPARATOR in path and split_member(path) is None)


def get_container(path: str) -> str:
    """The file in which a picture or a video lies: the path itself, or that of its archive."""
    member = split_member(path)
    if member is not None:
        return member[0]
    return path.split(_SEPARATOR)[0]


def name_tar_member(archive: str, name: str, *, offset: int, size: int) -> str:
    """The path of a member of a tar archive, whose bytes begin at ``offset``."""
    return f"{archive}{_SEPARATOR}{name}@{offset}+{size}"


def name_parquet_row(table: str, *, group: int, row: int) -> str:
    """The path of a row of a Parquet file; ``row`` counts within its row group."""
    return f"{table}{_SEPARATOR}{group}/{row}"


def read_image_bytes(path: str, cache: FileCache | None = None) -> bytes:
    """The bytes of a picture, as they were stored.

    Args:
        path: a file, a URL, a member of a tar file, or one of the forms above.
        cache: keeps remote files, and members of remote tar files, on a local disk.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read, or its archive is shorter than the path says.
        ValueError: the path is not of one of the forms above.
    """
    is_kept = cache is not None and _SEPARATOR not in path and get_path_here(path) is None
    if is_kept or split_member(path) is not None:
        source = find_source(path, cache)
        try:
            with source.open_bytes() as file:
                return file.read()
        finally:
            source.close()
    container, found, inside = path.partition(_SEPARATOR)
    if not found:
        with open(fetch_file(path), "rb") as file:
            return file.read()
    if row := _PARQUET_ROW.fullmatch(inside):
        images = _read_row_group(container, int(row["group"]))
        return images[int(row["row"])].as_py()["bytes"]
    member = _TAR_MEMBER.fullmatch(inside)
    if member is None:
        raise ValueError(f"{path}: after '::' comes NAME@OFFSET+SIZE of a tar archive, or GROUP/ROW of a Parquet file")
    with open(fetch_file(container), "rb") as file:
        file.seek(int(member["offset"]))
        data = file.read(int(member["size"]))
    if len(data) < int(member["size"]):
        raise OSError(f"{path}: the archive ends before this member does")
    return data


@functools.lru_cache(maxsize=_ROW_GROUPS_KEPT)
def _read_row_group(path: str, group: int) -> Any:
    return pq.ParquetFile(fetch_file(path)).read_row_group(group, columns=["image"]).column("image").combine_chunks()


def decode_image(data: bytes, *, max_short_side_px: int = 0) -> np.ndarray:
    """JPEG, PNG or WebP -> uint8 RGB (H, W, 3), upright; transparency is left out, 16 bits become 8.

    Args:
        data: the file's bytes.
        max_short_side_px: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as far as its short side stays this long;
            faster, but other pixels than a full decode and a resize. 0: never.

    Raises:
        OSError: the bytes are no picture, or end too early.
    """
    with Image.open(io.BytesIO(data)) as picture:
        is_upright = picture.getexif().get(_ORIENTATION, 1) == 1
        if max_short_side_px:
            picture.draft(None, (max_short_side_px, max_short_side_px))
        elif is_upright and picture.format == "JPEG" and picture.mode in ("RGB", "L"):
            rgb = _decode_plain_jpeg(data)
            if rgb is not None:
                return rgb
        upright = picture if is_upright else ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):  # 16 bits, which convert() would cut off at 255
            levels = np.asarray(upright).astype(np.int64)
            gray = (levels.clip(0, 65535) + _BYTE_OF_16_BITS // 2) // _BYTE_OF_16_BITS
            return np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)
        return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))  # either copies once


def _decode_plain_jpeg(data: bytes) -> np.ndarray | None:
    """The pixels that Pillow gives, sooner: both call libjpeg-turbo, but this writes RGB where it stays.

    Of data that is damaged in any way None: what Pillow makes of it counts.
    """
    try:
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError:
        return None


class ImageBackend:
    """One picture as a video of one frame, whose rate and duration are 0."""

    codec = "image"

    def __init__(self, path: str, *, max_short_side_px: int = 0, cache: FileCache | None = None) -> None:
        """Reads nothing yet; for max_short_side_px see `decode_image`, for cache `read_image_bytes`.

        Raises:
            FileNotFoundError: there is no such file.
        """
        local_path = get_path_here(get_container(path))
        if local_path is not None and not os.path.isfile(local_path):
            raise FileNotFoundError(f"{path}: no such file")
        self._path, self._max_short_side_px, self._cache = path, max_short_side_px, cache
        self.index = FrameIndex(1, None, Fraction(1), duration_sec=0.0, fps=0.0)

    def decode(self, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (0, uint8 RGB (H, W, 3)).

        Raises:
            VideoDecodeError: the picture does not decode.
        """
        try:
            rgb = decode_image(read_image_bytes(self._path, self._cache), max_short_side_px=self._max_short_side_px)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoDecodeError(f"does not decode: {error}") from error
        for position in positions:
            yield position, rgb

    def close(self) -> None:
        """Does nothing: no file stays open."""
