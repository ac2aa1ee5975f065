"""What is legal in a list of videos, and seldom meant."""

from __future__ import annotations

import os
from collections import Counter

from hiera_video.data.lists import VideoList


def find_oddities(videos: VideoList, *, num_classes: int = 0) -> list[str]:
    """Sentences on repeated paths, on equal names of files, and on empty classes.

    Args:
        num_classes: 0 if labels do not matter.
    """
    found = []
    paths = videos.paths.tolist()
    repeated = [path for path, count in Counter(paths).items() if count > 1]
    if repeated:
        found.append(f"{len(repeated)} paths are listed more than once, and count each time, such as {repeated[0]}")
    names = Counter(os.path.basename(path) for path in set(paths))
    equal = [name for name, count in names.items() if count > 1]
    if equal:
        found.append(
            f"{len(equal)} names of files are those of several videos, such as {equal[0]}; the path tells them apart"
        )
    present = videos.labels if videos.label_sets is None else videos.label_sets.values
    empty = sorted(set(range(num_classes)) - set(present.tolist()))
    if empty:
        found.append(f"{len(empty)} of {num_classes} classes (MODEL.NUM_CLASSES) have no video, such as {empty[0]}")
    return found
