"""Boxes of a video linked over time: which of them show the same person or thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

_ROUNDING_SEC = 1e-9


@dataclass(frozen=True)
class TrackSettings:
    """When a box continues a track.

    Attributes:
        min_iou: the least overlap with the track's last box.
        max_gap_sec: how long a track may go without a box.
    """

    min_iou: float = 0.3
    max_gap_sec: float = 1.0


def link_boxes(
    times_sec: np.ndarray,
    boxes: np.ndarray,
    settings: TrackSettings = TrackSettings(),
) -> np.ndarray:
    """Numbers the tracks that boxes belong to, in the order in which they begin.

    At each moment the boxes and the tracks that are still open are paired so that their overlaps add up to the most;
    a pair that overlaps less than the settings ask for is none. A box without a track begins one.

    Args:
        times_sec: (n,) of each box, ascending; boxes of one moment have the same time.
        boxes: (n, 4) x1, y1, x2, y2, in any unit.
        settings: when a box continues a track.

    Returns:
        int64 (n,), from 1.

    Raises:
        ValueError: times that descend, or boxes that are not as many.
    """
    times_sec, boxes = np.asarray(times_sec, np.float64), np.asarray(boxes, np.float64).reshape(-1, 4)
    if len(times_sec) != len(boxes) or (np.diff(times_sec) < 0).any():
        raise ValueError(f"times_sec must ascend and be as many as the {len(boxes)} boxes, got {len(times_sec)} times")
    tracks = np.zeros(len(boxes), np.int64)
    last: dict[int, int] = {}  # open track -> row of its last box
    count = 0
    for time_sec in np.unique(times_sec):
        rows = np.flatnonzero(times_sec == time_sec)
        last = {
            track: row
            for track, row in last.items()
            if time_sec - times_sec[row] <= settings.max_gap_sec + _ROUNDING_SEC
        }
        open_tracks = list(last)
        overlaps = compute_ious(boxes[rows], boxes[[last[track] for track in open_tracks]])  # (here, open)
        overlaps[overlaps < settings.min_iou] = 0.0
        for here, there in zip(*linear_sum_assignment(overlaps, maximize=True), strict=True):
            if overlaps[here, there] > 0:
                tracks[rows[here]] = open_tracks[there]
        for row in rows:
            if not tracks[row]:
                count += 1
                tracks[row] = count
            last[int(tracks[row])] = int(row)
    return tracks


def compute_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of each with each: (n, 4) and (m, 4) -> (n, m); 0 where neither has area."""
    sides = np.minimum(first[:, None, 2:], second[None, :, 2:]) - np.maximum(first[:, None, :2], second[None, :, :2])
    shared = np.clip(sides, 0, None).prod(axis=2)
    areas = [np.clip(each[:, 2:] - each[:, :2], 0, None).prod(axis=1) for each in (first, second)]
    together = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, together, out=np.zeros_like(shared), where=together > 0)


def interpolate_boxes(
    times_sec: np.ndarray, boxes: np.ndarray, at_sec: float, *, max_gap_sec: float, stay_sec: float
) -> np.ndarray | None:
    """The box of a track at a moment, on the line between the boxes before and after it.

    Args:
        times_sec: (n,) of the track's boxes, strictly ascending.
        boxes: (n, 4).
        at_sec: the moment.
        max_gap_sec: between two boxes that are further apart the track is away.
        stay_sec: for so long it is there before its first box and after its last one, and at either end of a gap.

    Returns:
        (4,), or None where the track is away.
    """
    after = int(np.searchsorted(times_sec, at_sec))
    is_between = 0 < after < len(times_sec)
    if is_between and times_sec[after] - times_sec[after - 1] <= max_gap_sec + _ROUNDING_SEC:
        share = (at_sec - times_sec[after - 1]) / (times_sec[after] - times_sec[after - 1])
        return boxes[after - 1] * (1 - share) + boxes[after] * share
    nearest = int(np.argmin(abs(times_sec - at_sec)))
    return boxes[nearest] if abs(times_sec[nearest] - at_sec) <= stay_sec + _ROUNDING_SEC else None
