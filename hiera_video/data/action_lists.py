"""AVA's published files: who does what, where and when; and the key frames that such lists make.

A table of boxes is a DataFrame with `COLUMNS`, a row for each label of a box. Its index holds the lines of the file, so
that messages can name them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hiera_video.data.box_checks import read_cells, to_integers, to_numbers
from hiera_video.data.frame_lists import load_frame_list
from hiera_video.data.lists import UNLABELED, read_text

# video: str. time_sec: float. Corners: float64, shares of the frame. label: class, counted from 0, or -1. score: of the
# detector, 1 for truth. person: which one, or -1.
COLUMNS = ("video", "time_sec", "x1", "y1", "x2", "y2", "label", "score", "person")
CORNERS = ["x1", "y1", "x2", "y2"]
UNKNOWN_PERSON = -1

_AVA_COLUMNS = ("video", "time_sec", *CORNERS, "action", "last")
_TRUTH_FORM = "video,second,x1,y1,x2,y2,action_id,person_id"
_PERSONS_FORM = "video,second,x1,y1,x2,y2,action_id or nothing,score"
_BLOCK = re.compile(r"\{(.*?)\}", re.DOTALL)
_NAME = re.compile(r"""\bname:\s*(?:"([^"]*)"|'([^']*)')""")
_ID = re.compile(r"\b(?:label_)?id:\s*(\d+)")


@dataclass(frozen=True, eq=False)
class KeyFrames:
    """Moments of videos, each with boxes; a sample is a moment. Satisfies `samples.SampleList`.

    Moment i has the boxes ``box_starts[i]`` to ``box_starts[i + 1]``, excluded; their numbers are the rows of a batch.

    Attributes:
        paths: str (n,), the file that each moment is in.
        videos: str (n,), how the lists name that video.
        times_sec: float64 (n,), on the clock of the lists.
        start_secs: float64 (n,), time on that clock of the file's first frame: 0 of a whole film, 900 of AVA's cut.
        box_starts: int64 (n + 1,).
        boxes: float32 (R, 4), x1, y1, x2, y2 as shares of the frame.
        scores: float32 (R,), of the detector; 1 for truth.
        actions: bool (R, K), the labels that the lists give a box.
        persons: int64 (R,), which person, -1 where unknown.
        class_names: K names, where they are known.
    """

    paths: np.ndarray
    videos: np.ndarray
    times_sec: np.ndarray
    start_secs: np.ndarray
    box_starts: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    actions: np.ndarray
    persons: np.ndarray
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labels(self) -> np.ndarray:
        """-1 everywhere, int64 (n,): boxes have labels, moments have none."""
        return np.full(len(self), UNLABELED, dtype=np.int64)


def load_ava_truth(path: str) -> pd.DataFrame:
    """Reads AVA's truth: ``video,second,x1,y1,x2,y2,action_id,person_id``, without a header, a row for each label.

    Lines with a video and a second alone say that there is nobody; they give no row.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of this form; names file, line and text.
    """
    cells = _read_ava(path, _TRUTH_FORM)
    persons = to_integers(cells["last"], path, "person_id", empty=UNKNOWN_PERSON)
    return _make_table(cells, path, scores=np.ones(len(cells)), persons=persons)


def load_ava_persons(path: str) -> pd.DataFrame:
    """Reads predicted persons: ``video,second,x1,y1,x2,y2,action_id or nothing,score``, without a header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of this form, or the file is one of truth, whose last column numbers persons: read as
            scores, all of them would pass any threshold.
    """
    cells = _read_ava(path, _PERSONS_FORM)
    if len(cells) and cells["last"].str.fullmatch(r"\d+").all():
        raise ValueError(
            f"{path} is listed among predicted persons, but looks like truth: its last column holds whole numbers "
            f"alone ({cells['last'].iloc[0]} in line {cells.index[0]}), as person_id, not scores in [0, 1]. Take "
            "it out of AVA.TRAIN_PREDICT_BOX_LISTS or AVA.TEST_PREDICT_BOX_LISTS"
        )
    scores = to_numbers(cells["last"], path, "score")
    wrong = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(wrong):
        raise ValueError(
            f"{path}:{cells.index[wrong[0]]}: score is {cells['last'].iloc[wrong[0]]!r}; it must be in [0, 1]"
        )
    return _make_table(cells, path, scores=scores, persons=np.full(len(cells), UNKNOWN_PERSON))


def load_exclusions(path: str) -> set[tuple[str, float]]:
    """Reads which moments are left out of an evaluation: lines ``video,second``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of this form.
    """
    cells = read_cells(path, ("video", "time_sec"), needed=2, form="video,second")
    return set(zip(cells["video"], to_numbers(cells["time_sec"], path, "second").tolist(), strict=True))


def load_label_map(path: str) -> dict[int, str]:
    """Reads a list of classes in protocol buffers' text form: id -> name. Ids stand as ``id:`` or ``label_id:``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a class lacks its name or id, an id comes twice, or there is none.
    """
    names: dict[int, str] = {}
    for number, block in enumerate(_BLOCK.findall(read_text(path)), start=1):
        name, label_id = _NAME.search(block), _ID.search(block)
        if name is None or label_id is None:
            raise ValueError(f"{path}: class number {number} must have 'name: \"...\"' and 'id: 1' or 'label_id: 1'")
        if int(label_id[1]) in names:
            raise ValueError(f"{path}: the id {label_id[1]} is given twice")
        names[int(label_id[1])] = name[1] or name[2] or ""
    if not names:
        raise ValueError(f'{path} lists no class; classes look like item {{ name: "sit" id: 11 }}')
    return names


def load_frame_lists(paths: Iterable[str]) -> dict[str, str]:
    """Reads SlowFast's lists of extracted frames: id of a video -> its series of pictures; see `load_frame_list`.

    Raises:
        ValueError: two lists name different pictures of a video, or see `load_frame_list`.
    """
    series: dict[str, str] = {}
    for path in paths:
        for video, pictures in load_frame_list(path).items():
            if series.setdefault(video, pictures) != pictures:
                raise ValueError(f"{path}: {pictures} of video {video} is {series[video]} in another list")
    return series


def make_key_frames(
    boxes: pd.DataFrame,
    *,
    paths: Mapping[str, str],
    start_secs: Mapping[str, float],
    num_classes: int,
    class_names: tuple[str, ...] | None = None,
) -> KeyFrames:
    """Groups a table of boxes into moments: rows of equal corners at one moment are one box with several labels.

    Videos keep the order of their first rows, moments of a video ascend, boxes keep the order of their first rows. A
    box has the score and the person of its first row.

    Args:
        boxes: with `COLUMNS`; labels are below ``num_classes``.
        paths: how lists name a video -> its file.
        start_secs: how lists name a video -> time of its file's first frame.
        num_classes: K.
        class_names: K names.
    """
    codes, _ = pd.factorize(boxes["video"])
    order = np.lexsort((boxes["time_sec"], codes))  # stable
    table = boxes.iloc[order]
    moments = table.groupby(["video", "time_sec"], sort=False).ngroup().to_numpy()
    numbers = table.groupby(["video", "time_sec", *CORNERS], sort=False).ngroup().to_numpy()
    _, first = np.unique(numbers, return_index=True)  # of each box; numbers are given in the order of appearance
    _, first_of_moment, num_boxes = np.unique(moments[first], return_index=True, return_counts=True)
    actions = np.zeros((len(first), num_classes), dtype=bool)
    labels = table["label"].to_numpy()
    has_label = labels != UNLABELED
    actions[numbers[has_label], labels[has_label]] = True
    found = table.iloc[first]
    videos = found["video"].iloc[first_of_moment]
    return KeyFrames(
        paths=np.array([paths[video] for video in videos], dtype=np.str_),
        videos=np.array(videos, dtype=np.str_),
        times_sec=found["time_sec"].to_numpy(np.float64)[first_of_moment],
        start_secs=np.array([start_secs[video] for video in videos], dtype=np.float64),
        box_starts=np.concatenate([[0], np.cumsum(num_boxes)]).astype(np.int64),
        boxes=found[CORNERS].to_numpy(np.float32),
        scores=found["score"].to_numpy(np.float32),
        actions=actions,
        persons=found["person"].to_numpy(np.int64),
        class_names=class_names,
    )


def _read_ava(path: str, form: str) -> pd.DataFrame:
    """The cells of AVA's lines that have a box."""
    cells = read_cells(path, _AVA_COLUMNS, needed=2, form=form)
    has_nothing = (cells[list(_AVA_COLUMNS[2:])] == "").all(axis=1)
    return cells[~has_nothing]


def _make_table(cells: pd.DataFrame, path: str, *, scores: np.ndarray, persons: np.ndarray) -> pd.DataFrame:
    ids = to_integers(cells["action"], path, "action_id", empty=UNLABELED)
    wrong = (ids == 0) | (ids < UNLABELED)
    if wrong.any():
        raise ValueError(f"{path}:{cells.index[wrong][0]}: action_id is {ids[wrong][0]}; ids count from 1")
    columns = {name: to_numbers(cells[name], path, name) for name in ("time_sec", *CORNERS)}
    is_timed = np.isfinite(columns["time_sec"])
    if not is_timed.all():
        line = cells.index[~is_timed][0]
        raise ValueError(f"{path}:{line}: the second is {cells['time_sec'].loc[line]!r}; it must be a number")
    labels = np.where(ids == UNLABELED, UNLABELED, ids - 1)
    table = {"video": cells["video"], **columns, "label": labels, "score": scores, "person": persons}
    return pd.DataFrame(table, index=cells.index, columns=list(COLUMNS))
