"""Average precision of actions in boxes, as each of the three programs computes it that people use for AVA.

They agree on all but three questions, see `Protocol`; on the same detections their numbers differ by several points, so
that a number without its protocol means little.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

_IOU_THRESHOLD = 0.5
_BOX = ["x1", "y1", "x2", "y2"]
_CHUNK = 2**22  # values in memory at a time


@dataclass(frozen=True)
class Protocol:
    """What programs that compute AVA's numbers do differently.

    Attributes:
        is_sorted: detections of a frame take their truth in the order of their scores, and not in that of the input.
        frames: whose detections count: "all" frames; those that the truth "lists", with whatever class; or those with
            truth of a "scored" class.
        rows_per_frame: how many detections of a frame count, those of the highest scores over all scored classes; 0:
            all.
    """

    is_sorted: bool
    frames: Literal["all", "listed", "scored"]
    rows_per_frame: int = 0


PROTOCOLS = {
    "SlowFast": Protocol(is_sorted=False, frames="all"),
    "ActivityNet": Protocol(is_sorted=True, frames="listed", rows_per_frame=50),
    "mmaction2": Protocol(is_sorted=True, frames="scored"),
}


@dataclass(frozen=True, eq=False)
class _Matches:
    """The detections of one class, in descending order of scores.

    Attributes:
        is_hit: bool (n,), which of them found a truth that nobody before them had.
        videos: int64 (n,), which video each is of.
        truths: int64 (V,), how many boxes of truth each video has.
    """

    is_hit: np.ndarray
    videos: np.ndarray
    truths: np.ndarray


@dataclass(frozen=True, eq=False)
class ActionAp:
    """Average precisions of some classes.

    Attributes:
        classes: the scored classes, int64 (C,).
        ap: float64 (C,) in [0, 1]; NaN for a class without truth.
        num_truths: boxes of truth of each, int64 (C,).
        num_detections: that counted, over the scored classes.
        num_invalid: boxes without area, of truth and detections, which are left out.
        num_excluded: boxes of truth and detections in excluded frames.
    """

    classes: np.ndarray
    ap: np.ndarray
    num_truths: np.ndarray
    num_detections: int
    num_invalid: int
    num_excluded: int
    _matches: tuple[_Matches, ...]

    @property
    def mean(self) -> float:
        """The mean over the classes that have truth, in [0, 1]; NaN where none has."""
        return float(_mean_over_classes(self.ap[:, None])[0])

    def compute_interval(self, *, seed: int = 0, num_resamples: int = 1000, confidence: float = 0.95) -> list[float]:
        """Percentile interval of `mean`: videos are drawn with replacement, as many as there are.

        It tells of the choice of test videos alone. Where a draw has no truth of a class, that class is left out of its
        mean.

        Args:
            seed: of the draws, rows of ``default_rng(seed).integers(V, size=(num_resamples, V))``; the videos count in
                the order of their names.
            num_resamples: how often.
            confidence: share of the resampled means between the ends.
        """
        num_videos = len(self._matches[0].truths)
        if num_videos == 0:
            return [float("nan"), float("nan")]
        drawn = np.random.default_rng(seed).integers(num_videos, size=(num_resamples, num_videos))
        weights = np.stack([np.bincount(row, minlength=num_videos) for row in drawn]).astype(np.float64)
        means = _mean_over_classes(np.stack([_compute_weighted_ap(matches, weights) for matches in self._matches]))
        tail = (1 - confidence) / 2
        return np.nanquantile(means, [tail, 1 - tail]).tolist() if np.isfinite(means).any() else [float("nan")] * 2


def compute_action_ap(
    truth: pd.DataFrame,
    boxes: pd.DataFrame,
    scores: np.ndarray,
    *,
    classes: Sequence[int],
    excluded: Collection[tuple[str, float]] = (),
    protocol: Protocol = PROTOCOLS["SlowFast"],
) -> ActionAp:
    """Average precision of each class, where a detection is a hit if it overlaps a box of truth with IoU >= 0.5.

    A detection takes the truth of its frame and class of the highest IoU. The first one that takes a truth is the hit;
    any other is wrong, even if it overlapped a second truth. The average is over all points, with the precision
    envelope. A class without truth has none; one with truth that nothing finds has 0.

    Args:
        truth: columns video, time_sec, x1, y1, x2, y2, label: a row for each label of each box.
        boxes: columns video, time_sec, x1, y1, x2, y2, in the unit of truth: a row for each detected box.
        scores: float (R, K) of these boxes; NaN where a box was not scored for a class.
        classes: the labels that are scored.
        excluded: (video, time_sec) of frames that leave both sides.
        protocol: what programs do differently.

    Raises:
        ValueError: no class is scored, a class has no column, or boxes and scores differ in number.

    Follows: SlowFast's `ava_eval_helper`, ActivityNet's `get_ava_performance` and mmaction2's `ava_utils`.
    Differs: detections of equal scores rank in the order of the input, which sorting leaves open there. mmaction2
        leaves out classes that nobody detects, keeps boxes without area, and counts excluded truth as missed.
    """
    if not len(classes) or min(classes) < 0 or max(classes) >= scores.shape[1] or len(boxes) != len(scores):
        raise ValueError(
            f"scores of shape {scores.shape} do not fit {len(boxes)} boxes and the scored classes {list(classes)[:10]}"
        )
    frames, names = _number_frames(truth, boxes)
    videos = _number_videos(names)  # (F,)
    out = _make_keys(excluded)
    is_out = np.array([name in out for name in names], dtype=bool)  # (F,)
    truth_frames, box_frames = frames[: len(truth)], frames[len(truth) :]
    truth_boxes, detected = truth[_BOX].to_numpy(np.float64), boxes[_BOX].to_numpy(np.float64)
    has_area, is_whole = _have_area(truth_boxes), _have_area(detected)
    labels = truth["label"].to_numpy()
    is_truth = has_area & ~is_out[truth_frames] & np.isin(labels, classes)

    counted = np.asarray(scores)[:, list(classes)]  # (R, C)
    is_counted = ~np.isnan(counted) & (is_whole & ~is_out[box_frames])[:, None]
    if protocol.frames != "all":
        kept = truth_frames if protocol.frames == "listed" else truth_frames[is_truth]
        is_counted &= np.isin(box_frames, kept)[:, None]
    if protocol.rows_per_frame:
        is_counted &= _find_highest(counted, is_counted, box_frames, protocol.rows_per_frame)

    matches = []
    for column, label in enumerate(classes):
        mine, seen = is_truth & (labels == label), np.flatnonzero(is_counted[:, column])
        claims = _claim(detected[seen], box_frames[seen], truth_boxes[mine], truth_frames[mine])
        is_hit, order = _find_hits(claims, counted[seen, column], is_sorted=protocol.is_sorted)
        truths = np.bincount(videos[truth_frames[mine]], minlength=videos.max(initial=-1) + 1)
        matches.append(_Matches(is_hit[order], videos[box_frames[seen]][order], truths))
    return ActionAp(
        classes=np.asarray(classes, np.int64),
        ap=np.array([_compute_weighted_ap(each, np.ones((1, len(each.truths))))[0] for each in matches]),
        num_truths=np.array([each.truths.sum() for each in matches]),
        num_detections=int(is_counted.sum()),
        num_invalid=int((~has_area).sum() + (~is_whole).sum()),
        num_excluded=int(is_out[frames].sum()),
        _matches=tuple(matches),
    )


def _make_keys(frames: Iterable[tuple[str, float]]) -> set[tuple[str, int]]:
    """Frames by video and millisecond, so that rounded times meet."""
    return {(str(video), round(float(time_sec) * 1000)) for video, time_sec in frames}


def _number_frames(truth: pd.DataFrame, boxes: pd.DataFrame) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """A number for each row of truth and then of boxes, int64; and the frame of each number."""
    videos = pd.concat([truth["video"], boxes["video"]]).astype(str).to_numpy()
    times = pd.concat([truth["time_sec"], boxes["time_sec"]]).to_numpy(np.float64)
    keys = pd.MultiIndex.from_arrays([videos, np.rint(times * 1000).astype(np.int64)])
    numbers, unique = keys.factorize()
    return numbers, [(str(video), int(time)) for video, time in unique]


def _number_videos(frames: list[tuple[str, int]]) -> np.ndarray:
    """The number of each frame's video, in the order of the videos' names, int64 (F,)."""
    if not frames:
        return np.zeros(0, np.int64)
    return np.unique([video for video, _ in frames], return_inverse=True)[1]


def _have_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])


def _find_highest(scores: np.ndarray, is_counted: np.ndarray, frames: np.ndarray, number: int) -> np.ndarray:
    """Which of the counted scores (R, C) are among the ``number`` highest of their frame, bool (R, C)."""
    rows, columns = np.nonzero(is_counted)
    order = np.lexsort((-scores[rows, columns], frames[rows]))
    ordered = frames[rows][order]
    begins = np.searchsorted(ordered, ordered)  # where each one's frame begins
    kept = order[np.arange(len(order)) - begins < number]
    is_kept = np.zeros_like(is_counted)
    is_kept[rows[kept], columns[kept]] = True
    return is_kept


def _claim(boxes: np.ndarray, frames: np.ndarray, truth: np.ndarray, truth_frames: np.ndarray) -> np.ndarray:
    """For each box the truth of its frame with the highest IoU, the first of equal ones; -1 where that is below 0.5."""
    order = np.argsort(truth_frames, kind="stable")
    ordered = truth_frames[order]
    begins, ends = np.searchsorted(ordered, frames), np.searchsorted(ordered, frames, side="right")
    best, claims = np.full(len(boxes), -1.0), np.full(len(boxes), -1)
    for step in range((ends - begins).max(initial=0)):
        rows = np.flatnonzero(begins + step < ends)
        others = order[begins[rows] + step]
        iou = _compute_iou(boxes[rows], truth[others])
        is_better = iou > best[rows]
        best[rows[is_better]], claims[rows[is_better]] = iou[is_better], others[is_better]
    return np.where(best >= _IOU_THRESHOLD, claims, -1)


def _compute_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of pairs of boxes: (n, 4) and (n, 4) -> (n,)."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(axis=1)
    return shared / (areas - shared)


def _find_hits(claims: np.ndarray, scores: np.ndarray, *, is_sorted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which detections are the first to take their truth, bool (n,); and the descending order of scores, (n,)."""
    descending = np.argsort(-scores, kind="stable")
    turns = descending if is_sorted else np.arange(len(scores))
    taken, first = np.unique(claims[turns], return_index=True)
    is_hit = np.zeros(len(claims), dtype=bool)
    is_hit[turns[first[taken >= 0]]] = True
    return is_hit, descending


def _compute_weighted_ap(matches: _Matches, weights: np.ndarray) -> np.ndarray:
    """Average precision where each video counts as often as its weight says; NaN where no truth counts.

    Only hits add to it, and the precision between two hits never exceeds that of the hit before. So it is enough to
    know, for each hit, how many wrong detections of each video lie between it and the hit before.

    Args:
        matches: of one class.
        weights: float64 (S, V).

    Returns:
        float64 (S,).
    """
    totals = weights @ matches.truths  # (S,)
    hits = np.flatnonzero(matches.is_hit)
    if not len(hits):
        return np.where(totals > 0, 0.0, np.nan)
    wrong = np.flatnonzero(~matches.is_hit)
    before = np.searchsorted(hits, wrong)  # the hit that each wrong one precedes
    is_early = before < len(hits)
    between = np.zeros((len(hits), weights.shape[1]))
    np.add.at(between, (before[is_early], matches.videos[wrong[is_early]]), 1.0)
    values = np.empty(len(weights))
    at_a_time = max(_CHUNK // len(hits), 1)
    for start in range(0, len(weights), at_a_time):
        some = slice(start, start + at_a_time)
        counts = weights[some, matches.videos[hits]].T  # (hits, S)
        right = counts.cumsum(axis=0)
        seen = right + (between @ weights[some].T).cumsum(axis=0)
        precision = np.divide(right, seen, out=np.zeros_like(seen), where=seen > 0)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        values[some] = (counts * envelope).sum(axis=0)
    return np.divide(values, totals, out=np.full_like(values, np.nan), where=totals > 0)


def _mean_over_classes(ap: np.ndarray) -> np.ndarray:
    """(C, S) -> (S,), over what is not NaN; NaN where all is."""
    counts = (~np.isnan(ap)).sum(axis=0)
    return np.divide(np.nansum(ap, axis=0), counts, out=np.full(ap.shape[1], np.nan), where=counts > 0)
