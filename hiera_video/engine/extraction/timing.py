"""Who was at work when: the times of decoding and of the model, as an extraction reports them."""

from __future__ import annotations


class BusyTime:
    """How long something was at work: a union of spans of time, which may overlap and come a little out of order."""

    _MAX_SPANS, _RECENT_SPANS = 4096, 256

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._before_sec = 0.0  # of older spans, which no new one overlaps

    def add(self, began: float, ended: float) -> None:
        """Takes a span, in seconds of one clock."""
        self._spans.append((began, ended))
        if len(self._spans) > self._MAX_SPANS:
            merged = self._merge()
            self._spans = merged[-self._RECENT_SPANS :]
            self._before_sec += sum(ended - began for began, ended in merged[: -self._RECENT_SPANS])

    def compute_sec(self) -> float:
        """Seconds of the union."""
        return self._before_sec + sum(ended - began for began, ended in self._merge())

    def _merge(self) -> list[tuple[float, float]]:
        merged: list[tuple[float, float]] = []
        for began, ended in sorted(self._spans):
            if merged and began <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], ended))
            else:
                merged.append((began, ended))
        return merged


class WorkTimes:
    """When any decoding process was at work, when the model was, and on how many views."""

    def __init__(self) -> None:
        self._decoding, self._model, self._either = BusyTime(), BusyTime(), BusyTime()
        self._num_views = 0

    def add_decoding(self, began: float, ended: float) -> None:
        """Takes the time that a process decoded for a chunk."""
        self._decoding.add(began, ended)
        self._either.add(began, ended)

    def add_batch(self, num_views: int, began: float, ended: float) -> None:
        """Takes the time that the model had a batch."""
        self._num_views += num_views
        self._model.add(began, ended)
        self._either.add(began, ended)

    def summarize(self, seconds: float) -> dict[str, float]:
        """Speed of the model, and who was busy for what share of ``seconds``, as the log shows it."""
        return {
            "views_per_sec_per_process": round(self._num_views / seconds, 2),
            "decoder_busy_percent": round(100 * self._decoding.compute_sec() / seconds, 1),
            "model_busy_percent": round(100 * self._model.compute_sec() / seconds, 1),
            "both_idle_percent": round(100 * max(1 - self._either.compute_sec() / seconds, 0), 1),
        }
