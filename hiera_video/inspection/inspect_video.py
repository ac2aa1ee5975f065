"""Finds out about one video file what a long job should not be the first to find out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

from hiera_video.utils.pathmgr import get_path_here
from hiera_video.video import VideoDecodeError, VideoReader
from hiera_video.video.frames_backend import is_frames_path
from hiera_video.video.index import FrameIndex, decode_index
from hiera_video.video.integrity import check_stream, count_missing_bytes
from hiera_video.video.manifest import OK, VideoRecord
from hiera_video.video.source import LocalSource, find_local_source, find_source

WHOLE_BYTES = 4 << 20  # files up to this size are hashed whole
BLOCK_BYTES = 256 << 10  # of larger files, three blocks of this size are hashed
END_TOLERANCE_SEC = 0.5  # a header may promise this much more than there is


def inspect_video(path: str, *, full_decode: bool = False) -> VideoRecord:
    """Opens a video as training does, and checks that all of it is there.

    Args:
        path: as it stands in the list.
        full_decode: decode every frame. This also finds damage that packets do not show, but takes many times longer.

    Returns:
        Its record. Errors are not raised: they become the record's status and reason.
    """
    source, facts = None, VideoRecord(OK)
    try:
        source = None if is_frames_path(path) else find_local_source(path)
        if source is not None:
            facts = _read_file_facts(path, source)
            if facts.status != OK:
                return facts
        return _inspect_frames(path, source, facts, full_decode=full_decode)
    except FileNotFoundError as error:
        return replace(facts, status="missing", reason=_strip_path(error, path))
    except Exception as error:  # any error that a library raises is a finding about this file
        is_expected = isinstance(error, VideoDecodeError | OSError)
        reason = _strip_path(error, path) if is_expected else f"{type(error).__name__}: {error}"
        return replace(
            facts, status="unreadable", reason=reason if source is None else _add_missing_bytes(reason, path)
        )


def compute_content_hash(path: str, *, whole: bool = False) -> str:
    """Hash of the bytes of a local file, or of a member of one: equal for equal ones.

    For files above `WHOLE_BYTES` it is made of their size and blocks of `BLOCK_BYTES` from head, middle and tail, and
    begins with "blocks:". If two such hashes agree, ``whole=True`` decides.
    """
    source = find_source(path)
    size_bytes = source.size_bytes
    digest = hashlib.blake2b(digest_size=16)
    with source.open_bytes() as file:
        if whole or size_bytes <= WHOLE_BYTES:
            while block := file.read(WHOLE_BYTES):
                digest.update(block)
            return digest.hexdigest()
        digest.update(str(size_bytes).encode())
        for start in (0, (size_bytes - BLOCK_BYTES) // 2, size_bytes - BLOCK_BYTES):
            file.seek(start)
            digest.update(file.read(BLOCK_BYTES))
    return f"blocks:{digest.hexdigest()}"


def hash_whole_file(path: str) -> str | None:
    """`compute_content_hash` of all bytes; None if the file cannot be read."""
    try:
        return None if get_path_here(path) is None else compute_content_hash(path, whole=True)
    except OSError:
        return None


def _read_file_facts(path: str, source: LocalSource) -> VideoRecord:
    facts = VideoRecord(OK, size_bytes=source.size_bytes, mtime_sec=os.stat(source.path).st_mtime)
    if source.size_bytes == 0:
        return replace(facts, status="empty", reason="the file is empty (0 bytes)")
    return replace(facts, content_hash=compute_content_hash(path))


def _inspect_frames(path: str, source: LocalSource | None, facts: VideoRecord, *, full_decode: bool) -> VideoRecord:
    """Adds what the frames show. Raises what the reader raises if the video gives no frame."""
    is_pictures = is_frames_path(path)
    with VideoReader(path) as reader:
        width, height, index = reader.width, reader.height, reader.index  # in this order: damage changes the index
        facts = replace(facts, width=width, height=height, codec=reader.codec, index=index)
        if is_pictures:
            status, reason = _judge_pictures(reader, full_decode=full_decode)
            return replace(facts, status=status, reason=reason)
    if source is not None and count_missing_bytes(path):
        reason = _add_missing_bytes(f"{index.num_frames} frames decode", path)
        return replace(facts, status="truncated", reason=reason)
    if source is None and not full_decode:
        return facts  # do not fetch a remote file as a whole
    status, reason = _judge_stream(path, index, full_decode=full_decode)
    if status == "damaged":  # the packets promise too many frames: record those that decode
        facts = replace(facts, index=decode_index(find_source(path), stream_index=None, num_threads=1))
    return replace(facts, status=status, reason=reason)


def _judge_pictures(reader: VideoReader, *, full_decode: bool) -> tuple[str, str]:
    """Status and reason. Opening has read the first picture; without ``full_decode`` only the last one is read too."""
    length = len(reader)
    for position in range(1, length) if full_decode else [length - 1]:
        try:
            reader.get_frames([position])
        except VideoDecodeError as error:
            return "damaged", _strip_path(error, reader.path)
    return OK, ""


def _judge_stream(path: str, index: FrameIndex, *, full_decode: bool) -> tuple[str, str]:
    """Status and reason, from a pass over all packets."""
    stream = check_stream(path, is_decoded=full_decode)
    if stream.num_packets < stream.num_promised:
        return "truncated", f"the container lists {stream.num_promised} frames, {stream.num_packets} are there"
    if stream.promised_end_sec - stream.end_sec > END_TOLERANCE_SEC:
        return "truncated", f"the container promises {stream.promised_end_sec:.1f} s, {stream.end_sec:.1f} s are there"
    if stream.errors and not full_decode:
        return "truncated", stream.errors[0]
    if stream.errors or stream.num_damaged:
        cause = f" ({stream.errors[0]})" if stream.errors else ""
        return "damaged", f"{stream.num_frames} frames decode, {stream.num_damaged} of them with damage{cause}"
    if stream.num_frames is not None and stream.num_frames < index.num_frames:
        return "damaged", f"{stream.num_frames} of {index.num_frames} frames decode"
    return OK, ""


def _strip_path(error: Exception, path: str) -> str:
    return str(error).removeprefix(f"{path}: ")


def _add_missing_bytes(reason: str, path: str) -> str:
    try:
        num_missing = count_missing_bytes(path)
    except OSError:
        return reason
    return f"{reason}; the file ends {num_missing:,} bytes too early" if num_missing else reason
