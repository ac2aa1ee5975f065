"""What has been prepared, written down video by video, so that a job that is killed loses none of it.

``prepared.jsonl`` has a line for each attempt at a video; the last one counts, if its file is still there as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import simplejson

from hiera_video.preparation.prepare_video import PARTIAL_SUFFIX, Outcome
from hiera_video.video.manifest import OK, VideoRecord, make_row, read_rows

JOURNAL = "prepared.jsonl"
_FACTS = ("source", "target", "note", "source_bytes", "cpu_sec", "psnr_db", "ssim")


class Journal:
    """The journal of an output folder; a context manager that keeps the file open.

    Targets are written relative to the folder, so that it can be moved.
    """

    def __init__(self, output_dir: str | os.PathLike[str]) -> None:
        self._folder = Path(output_dir)
        self.path = self._folder / JOURNAL
        self._file: Any = None

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b", buffering=0)  # a line is one write
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":  # the process was killed while it wrote
                self._file.write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, outcome: Outcome) -> None:
        """Writes down what became of a video, before the next one is counted."""
        facts = {name: getattr(outcome, name) for name in _FACTS}
        facts["target"] = os.path.relpath(outcome.target, self._folder)
        row = {**facts, "row": make_row(outcome.target, outcome.record)}
        self._file.write((simplejson.dumps(row, ignore_nan=True) + "\n").encode())

    def load(self) -> dict[str, Outcome]:
        """Source -> what became of it; without those whose new files are not there any more, or have another size."""
        latest = {line["source"]: line for line in self._read_lines()}
        targets = {source: str(self._folder / line["target"]) for source, line in latest.items()}
        rows = [{**line["row"], "path": targets[source]} for source, line in latest.items()]
        manifest = read_rows(rows, source=str(self.path))
        outcomes = {}
        for source, line in latest.items():
            record: VideoRecord | None = manifest.get_entry(targets[source])
            if record is not None:
                facts = {**{name: line[name] for name in _FACTS}, "target": targets[source]}
                outcomes[source] = Outcome(record=record, **facts)
        return outcomes

    def _read_lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    found = simplejson.loads(line)
                except ValueError:
                    continue  # torn
                if isinstance(found, dict) and {"row", *_FACTS} <= found.keys():
                    yield found


def remove_unfinished(output_dir: str | os.PathLike[str]) -> int:
    """Removes the files that processes were writing when they died; how many there were. No other may be at work."""
    count = 0
    for folder, _, names in os.walk(output_dir):
        for name in names:
            if name.startswith(".") and name.endswith(PARTIAL_SUFFIX):
                Path(folder, name).unlink(missing_ok=True)
                count += 1
    return count


def is_done(outcome: Outcome | None) -> bool:
    """Whether a video need not be done again; failures are tried again, as their reasons may have passed."""
    return outcome is not None and outcome.record.status == OK
