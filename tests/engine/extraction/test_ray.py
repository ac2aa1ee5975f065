"""The parts of the Ray pipeline without Ray: rows in any order become whole videos, and views become rows."""

import numpy as np
import torch

from hiera_video.config import dump_config, load_config
from hiera_video.engine.extraction.ray import Assembler, Decoder
from hiera_video.streams.chunk import Failure


class Received:
    """Stands for `VideoRows`."""

    def __init__(self):
        self.items = []

    def add(self, item):
        self.items.append(item)


def make_row(index, view, *, attempt=0, num_views=4, failure=""):
    row = {"index": index, "attempt": attempt, "num_views": num_views, "failure": failure, "view": view}
    spans = {"start_sec": view // 2, "end_sec": view // 2 + 1.5}
    features = np.array([[100.0 * attempt + view]], dtype=np.float32)
    return {**{name: np.array([value]) for name, value in {**row, **spans}.items()}, "features": features}


def assemble(rows):
    received = Received()
    assembler = Assembler(received, num_crops=2)
    for row in rows:
        assembler.add(row)
    return received.items, assembler.ended


def test_rows_in_any_order_become_one_chunk_of_the_whole_video():
    rows = [make_row(7, view) for view in (3, 0, 2)]
    assert assemble(rows) == ([], set())
    (item,), ended = assemble([*rows, make_row(7, 1), make_row(7, 1)])  # Ray may do a task again
    assert ended == {7} and (item.index, item.is_last) == (7, True)
    assert item.features.tolist() == [[0], [1], [2], [3]]
    assert item.spans_sec.tolist() == [[0, 1.5], [1, 2.5]]  # of its two clips


def test_rows_of_lower_attempts_are_void():
    rows = [make_row(7, 0), make_row(7, 1), make_row(7, 3, attempt=2), make_row(7, 2)]
    (item,), _ = assemble([*rows, *(make_row(7, view, attempt=2) for view in (0, 1, 2))])
    assert item.features.tolist() == [[200], [201], [202], [203]] and item.attempt == 2


def test_a_failure_ends_its_video_alone():
    rows = [make_row(7, 0), make_row(8, 0, num_views=1), make_row(7, 0, failure="damaged"), make_row(7, 1)]
    items, ended = assemble(rows)
    assert ended == {7, 8} and items[0].index == 8 and items[1] == Failure(7, 0, "damaged")


def test_views_become_rows(painted_video, tmp_path):
    path = str(painted_video("ray.mp4", num_frames=50))
    sizes = ["DATA.NUM_FRAMES", "4", "DATA.TEST_CROP_SIZE", "32", "DATA.TRAIN_CROP_SIZE", "32"]
    cfg = load_config([], ["TRAIN.ENABLE", "False", "EXTRACT.NUM_CROPS", "3", "EXTRACT.STRIDE", "0.3", *sizes])
    decoder = Decoder(dump_config(cfg), np.array([path, str(tmp_path / "none.mp4")]))
    *batches, failure = decoder({"index": np.array([0, 1])})
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    num_clips = len(rows["view"]) // 3
    assert num_clips == 6 and rows["view"].tolist() == list(range(18)) and set(rows["num_views"]) == {18}
    np.testing.assert_allclose(rows["start_sec"], np.repeat(0.3 * np.arange(6), 3))
    assert rows["pixels"].shape == (18, 3, 4, 32, 32) and rows["pixels"].dtype == np.uint8
    assert failure.keys() == rows.keys() and failure["index"].tolist() == [1]
    assert "none.mp4: no such file" in failure["failure"][0] and torch.tensor(failure["pixels"]).max() == 0
