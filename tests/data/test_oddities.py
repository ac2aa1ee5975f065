"""What a list says that its author seldom meant."""

import numpy as np

from hiera_video.data.lists import VideoList
from hiera_video.data.oddities import find_oddities


def test_repeats_equal_names_and_empty_classes_are_said():
    paths = np.array(["/a/x.mp4", "/b/x.mp4", "/a/y.mp4", "/a/y.mp4"])
    found = find_oddities(VideoList(paths, np.array([0, 1, 3, 3]), None), num_classes=5)
    assert len(found) == 3 and "1 paths are listed more than once" in found[0] and "/a/y.mp4" in found[0]
    assert "1 names of files" in found[1] and "such as x.mp4" in found[1]
    assert "2 of 5 classes (MODEL.NUM_CLASSES) have no video, such as 2" in found[2]
    assert find_oddities(VideoList(paths[:1], np.array([0]), None), num_classes=1) == []
