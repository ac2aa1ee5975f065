"""Prepares one video: writes it anew, and does not believe that it is right before it has been looked at."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from hiera_video.inspection.inspect_video import inspect_video
from hiera_video.preparation.quality import compare_samples
from hiera_video.utils.files import move_into_place
from hiera_video.utils.pathmgr import get_path_here
from hiera_video.video import VideoDecodeError, VideoReader
from hiera_video.video.index import decode_index
from hiera_video.video.integrity import count_missing_bytes
from hiera_video.video.manifest import OK, VideoRecord, get_size_bytes
from hiera_video.video.reencode import Encoding, Reencoded, reencode
from hiera_video.video.source import find_source

PARTIAL_SUFFIX = ".partial"


class Work(NamedTuple):
    """A video to prepare: its path, and the local path of the file to write."""

    source: str
    target: str


@dataclass(frozen=True)
class Settings:
    """Everything that the written files depend on, beside their sources.

    Attributes:
        encoding: how videos are written.
        range_sec: only frames that begin in [first, second), in seconds since the first frame. None: all.
        pictures_fps: the rate of videos that lie there as pictures.
    """

    encoding: Encoding
    range_sec: tuple[float, float] | None = None
    pictures_fps: float = 30.0

    def describe(self) -> dict[str, Any]:
        """As the side-car has it."""
        rest = {"range_sec": self.range_sec, "pictures_fps": self.pictures_fps}
        return {**self.encoding.__dict__, **rest}


@dataclass(frozen=True)
class Outcome:
    """What became of a video.

    Attributes:
        source: its path.
        target: the local path of the new file.
        record: what is known of the new file; of a video that could not be prepared, why.
        note: what was wrong with the source, whose frames are those that decode; "" if nothing.
        source_bytes: size of the source; 0 if unknown.
        cpu_sec: what it took of one core, with checks.
        psnr_db: of some frames, see `compare_samples`; 0 where there is no file.
        ssim: likewise.
    """

    source: str
    target: str
    record: VideoRecord
    note: str = ""
    source_bytes: int = 0
    cpu_sec: float = 0.0
    psnr_db: float = 0.0
    ssim: float = 0.0


def prepare_video(work: Work, settings: Settings) -> Outcome:
    """Writes a video anew, checks the new file frame by frame, and only then gives it its name.

    Errors are not raised: they become the status and reason of the record.
    """
    start = time.process_time()
    local = get_path_here(work.source)
    here = local if local is not None and os.path.isfile(local) else None  # not pictures, members of archives, URLs
    source_bytes = (local and get_size_bytes(local)) or _count_bytes(work.source)
    target = Path(work.target)
    partial = target.with_name(f".{os.getpid()}-{time.monotonic_ns()}{PARTIAL_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = reencode(
            work.source,
            partial,
            settings.encoding,
            range_sec=settings.range_sec,
            pictures_fps=settings.pictures_fps,
        )
        _check(partial, made, settings.encoding)
        psnr_db, ssim = compare_samples(str(partial), made.samples)
        record = inspect_video(str(partial))
        if record.status != OK or record.index is None:
            raise VideoDecodeError(f"the new file is {record.status}: {record.reason}")
        # A coarse time base rounds the rate. With the source's own, clips are the same frames as before.
        record = replace(record, index=replace(record.index, fps=made.fps, duration_sec=made.duration_sec))
        move_into_place(partial, target)
        note = "; ".join(filter(None, [made.notes, _describe_end(here)]))
        return Outcome(work.source, work.target, record, note, source_bytes, time.process_time() - start, psnr_db, ssim)
    except Exception as error:  # any error that a library raises is a reason why this video was not prepared
        return Outcome(work.source, work.target, _describe_failure(error, work, here), source_bytes=source_bytes)
    finally:
        partial.unlink(missing_ok=True)


def _check(partial: Path, made: Reencoded, encoding: Encoding) -> None:
    """Counts the frames of a new file by decoding it. Raises VideoDecodeError where it is not what it should be."""
    found = decode_index(find_source(str(partial)), stream_index=None, num_threads=1)
    if found.num_frames != made.num_frames:
        raise VideoDecodeError(f"the new file has {found.num_frames} frames instead of {made.num_frames}")
    times = [Fraction(0)] if found.pts is None else [(stamp - found.pts[0]) * found.time_base for stamp in found.pts]
    wanted = [tick * made.time_base for tick in made.ticks]
    if times != wanted:
        raise VideoDecodeError("the frames of the new file have other times than those of the source")
    with VideoReader(partial) as reader:
        keys = [key.position for key in reader.index.keys]
    if keys != list(range(0, made.num_frames, encoding.key_distance_frames)):
        raise VideoDecodeError(f"the new file has key frames at {keys[:5]}, ...")


def _count_bytes(source: str) -> int:
    """Of a folder of pictures, or of a file elsewhere; 0 where that is not known cheaply."""
    if os.path.isdir(source):
        return sum(entry.stat().st_size for entry in os.scandir(source) if entry.is_file())
    return 0


def _describe_end(here: str | None) -> str:
    missing = count_missing_bytes(here) if here is not None else 0
    return f"the file ends {missing:,} bytes too early" if missing else ""


def _describe_failure(error: Exception, work: Work, here: str | None) -> VideoRecord:
    reason = str(error).removeprefix(f"{work.source}: ")
    if isinstance(error, FileNotFoundError):
        return VideoRecord("missing", reason)
    if here is not None and get_size_bytes(here) == 0:
        return VideoRecord("empty", "the file is empty (0 bytes)")
    is_expected = isinstance(error, VideoDecodeError | OSError)
    return VideoRecord("unreadable", reason if is_expected else f"{type(error).__name__}: {error}")
