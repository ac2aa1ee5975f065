"""Compares what a file's container promises with what the file holds, to find damage before a long job does."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import BinaryIO

from hiera_video.video.index import decode_packet, get_time_base, open_stream, read_packets
from hiera_video.video.source import find_source

_BOX_TYPES = set(b"ftyp styp moov mdat free skip wide pnot uuid meta moof mfra sidx ssix emsg prft".split())
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@dataclass(frozen=True)
class StreamCheck:
    """What a pass over all packets of the first video stream found.

    Attributes:
        num_promised: packets that the container lists; 0 if it does not say.
        num_packets: packets in the file.
        promised_end_sec: end of the last frame as the header says, in the stream's own time; 0 if it does not say.
        end_sec: end of the frame in the last packet.
        errors: what could not be read or is marked as cut off and, if the packets were decoded, what failed to decode.
        num_frames: frames that decoded; None if the packets were not decoded.
        num_damaged: those of them in which the decoder had to make up for lost data.
    """

    num_promised: int
    num_packets: int
    promised_end_sec: float
    end_sec: float
    errors: tuple[str, ...]
    num_frames: int | None = None
    num_damaged: int = 0


def check_stream(path: str, *, is_decoded: bool) -> StreamCheck:
    """Reads every packet of a video's first stream and, if ``is_decoded``, decodes it.

    Raises:
        FileNotFoundError: no such file.
        VideoDecodeError: the file is not a video.
    """
    container, stream = open_stream(find_source(path), stream_index=None, num_threads=1)
    # MP4's own count includes samples that an edit list hides, AVI's counts a frame again for each time that it is
    # repeated. Reading gives neither, so the index entries are counted instead.
    is_listed = bool({"mov", "avi"} & set(container.format.name.split(",")))
    num_promised = len(stream.index_entries) if is_listed else stream.frames
    promised_end_sec = _parse_duration_sec(stream.metadata.get("DURATION", ""))
    errors: list[str] = []
    num_packets = num_frames = num_damaged = end_pts = 0
    with container:
        for packet in read_packets(container, stream, errors=errors):
            if packet.size == 0 and packet.dts is None:
                continue  # PyAV adds this one at the end; the other empty packets are AVI's, for repeated frames
            num_packets, end_pts = num_packets + 1, max(end_pts, (packet.pts or 0) + (packet.duration or 0))
            if packet.is_corrupt:
                errors.append(f"packet {num_packets - 1} is cut off")
            for frame in decode_packet(stream, packet, errors=errors) if is_decoded and packet.size else ():
                num_frames, num_damaged = num_frames + 1, num_damaged + frame.is_corrupt
        for frame in decode_packet(stream, None, errors=errors) if is_decoded else ():
            num_frames, num_damaged = num_frames + 1, num_damaged + frame.is_corrupt
    end_sec = float(end_pts * get_time_base(stream))
    return StreamCheck(
        num_promised,
        num_packets,
        promised_end_sec,
        end_sec,
        tuple(errors),
        num_frames=num_frames if is_decoded else None,
        num_damaged=num_damaged,
    )


def count_missing_bytes(path: str) -> int:
    """How many bytes an MP4, Matroska or AVI file is shorter than its outermost parts say; 0 if it is whole.

    This finds interrupted copies and downloads, even if they cannot be opened any more.
    """
    source = find_source(os.fspath(path))
    size_bytes = source.size_bytes
    with source.open_bytes() as file:
        head = file.read(12)
        if head[:4] == _EBML:
            end = _find_segment_end(file)
        elif head[:4] == b"RIFF":
            end = 8 + int.from_bytes(head[4:8], "little")
        elif head[4:8] in _BOX_TYPES:
            end = _find_last_box_end(file, size_bytes)
        else:
            end = 0
    return max(end - size_bytes, 0)


def _parse_duration_sec(text: str) -> float:
    """Reads a Matroska tag such as "00:00:03.600000000"; 0 if the text is no duration."""
    match = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text)
    return float(match[1]) * 3600 + float(match[2]) * 60 + float(match[3]) if match else 0.0


def _find_last_box_end(file: BinaryIO, size_bytes: int) -> int:
    """Where the last box of an MP4 file ends: each begins with its size (32 bits, or 1 and 64 bits) and its type."""
    start = 0
    while start + 8 <= size_bytes:
        file.seek(start)
        header = file.read(16)
        box_bytes, header_bytes = int.from_bytes(header[:4], "big"), 8
        if box_bytes == 1:
            box_bytes, header_bytes = int.from_bytes(header[8:16], "big"), 16
        # A size of 0 means "to the end of the file". Something after the last box that is no box does not matter.
        if box_bytes < header_bytes or header[4:8] not in _BOX_TYPES:
            return start
        start += box_bytes
    return start


def _find_segment_end(file: BinaryIO) -> int:
    """Where the segment of a Matroska file ends, which is all but the header; 0 if the file does not say."""
    file.seek(4)
    header_bytes = _read_ebml_size(file)
    if header_bytes is None:
        return 0
    file.seek(header_bytes, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return 0
    segment_bytes = _read_ebml_size(file)
    return 0 if segment_bytes is None else file.tell() + segment_bytes


def _read_ebml_size(file: BinaryIO) -> int | None:
    """Reads a size of 1 to 8 bytes. The leading zero bits of the first byte say how many follow. None: unknown."""
    first = file.read(1)
    if not first or first == b"\0":
        return None
    num_more = 8 - first[0].bit_length()
    bits = 7 * (num_more + 1)
    value = int.from_bytes(first + file.read(num_more), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
