"""Pictures with boxes and masks, from files in COCO's form."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from hiera_video.data.lists import UNLABELED, join_prefix
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import is_url, pathmgr
from hiera_video.video.image_backend import get_container

logger = get_logger(__name__)

_TOLERANCE_PX = 2.0  # boxes of the published files reach so far over the edge of some pictures, by rounding
_MAX_EMPTY_SHARE = 0.001  # COCO's own train2017 has some, such as annotation 918
_KEPT = ("id", "category_id", "bbox", "segmentation", "area", "iscrowd")
_NUM_FILES_CHECKED = 1000


@dataclass(frozen=True, eq=False)
class DetectionList:
    """Pictures of one split.

    Attributes:
        paths: str array (n,).
        image_ids: int64 (n,), as in the file.
        sizes: int64 (n, 2), height and width as the file has them, px.
        class_names: K names; label 0 is the first.
        category_ids: of each class, the id in the file; COCO's have gaps.
        content: all annotations as JSON, one array a picture: bytes, which worker processes share.
        ends: int64 (n + 1,): picture i has content[ends[i] : ends[i + 1]].
        source: the file.
        has_truth: whether the file has annotations at all; that of a test split has none.
    """

    paths: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    content: bytes
    ends: np.ndarray
    source: str
    has_truth: bool = True

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labels(self) -> np.ndarray:
        """int64 (n,): -1, as a picture has no class of its own."""
        return np.full(len(self), UNLABELED, dtype=np.int64)

    def get_annotations(self, index: int) -> list[dict[str, Any]]:
        """The annotations of a picture, as in the file: ``id``, ``category_id``, ``bbox``, ``segmentation``, ..."""
        return json.loads(self.content[self.ends[index] : self.ends[index + 1]])

    def select(self, positions: Sequence[int]) -> DetectionList:
        """The pictures at these positions."""
        rows = list(positions)
        parts = [self.content[self.ends[i] : self.ends[i + 1]] for i in rows]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        arrays = self.paths[rows], self.image_ids[rows], self.sizes[rows]
        names = self.class_names, self.category_ids
        return DetectionList(*arrays, *names, b"".join(parts), ends, self.source, self.has_truth)

    def select_for_training(self) -> DetectionList:
        """The pictures that have at least one thing that is no crowd, without their crowds."""
        kept = [[a for a in self.get_annotations(i) if not a.get("iscrowd")] for i in range(len(self))]
        parts = [json.dumps(annotations).encode() for annotations in kept]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        arrays = self.paths, self.image_ids, self.sizes
        names = self.class_names, self.category_ids
        whole = DetectionList(*arrays, *names, b"".join(parts), ends, self.source, self.has_truth)
        return whole.select([i for i, annotations in enumerate(kept) if annotations])

    def make_truth(self) -> dict[str, Any]:
        """All of it as one object in COCO's form, for an evaluation."""
        images = [
            {"id": int(image_id), "height": int(height), "width": int(width)}
            for image_id, (height, width) in zip(self.image_ids, self.sizes, strict=True)
        ]
        annotations = [
            {"iscrowd": 0, **annotation, "image_id": int(image_id)}
            for i, image_id in enumerate(self.image_ids)
            for annotation in self.get_annotations(i)
        ]
        categories = [
            {"id": number, "name": name} for number, name in zip(self.category_ids, self.class_names, strict=True)
        ]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def load_coco_json(path: str, *, image_dir: str = "") -> DetectionList:
    """Reads a file in COCO's form: an object with ``images``, ``categories`` and, if it has a truth, ``annotations``.

    Args:
        path: of the file, local or remote.
        image_dir: folder or URL that each ``file_name`` is in.

    Returns:
        All its pictures, in its order; classes in the order of their ids.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not of this form, a box is outside its picture, reversed or not finite, or more than one in a
            thousand is empty; names the file and the annotation's id.
    """
    content = _read(path)
    images, categories = content["images"], sorted(content["categories"], key=lambda category: category["id"])
    category_ids = tuple(int(category["id"]) for category in categories)
    _check_unique(path, "images", [image["id"] for image in images])
    _check_unique(path, "categories", category_ids)
    size_of = {image["id"]: (image["height"], image["width"]) for image in images}
    of_image = defaultdict(list)
    for annotation in content.get("annotations", ()):
        _check_annotation(annotation, size_of, category_ids, path)
        of_image[annotation["image_id"]].append({key: annotation[key] for key in _KEPT if key in annotation})
    _check_empty(content.get("annotations", ()), path)
    _check_unique(path, "annotations", [annotation["id"] for annotation in content.get("annotations", ())])
    parts = [json.dumps(of_image[image["id"]]).encode() for image in images]
    return DetectionList(
        paths=np.array([join_prefix(image_dir, image["file_name"]) for image in images], dtype=np.str_),
        image_ids=np.array([image["id"] for image in images], dtype=np.int64),
        sizes=np.array([size_of[image["id"]] for image in images], dtype=np.int64).reshape(-1, 2),
        class_names=tuple(str(category["name"]) for category in categories),
        category_ids=category_ids,
        content=b"".join(parts),
        ends=np.cumsum([0, *map(len, parts)], dtype=np.int64),
        source=path,
        has_truth="annotations" in content,
    )


def build_detection_list(cfg: CfgNode, split: str) -> DetectionList:
    """The checked list of a split, from COCO.ANNOTATIONS.

    Raises:
        FileNotFoundError: no such file, or none of its pictures.
        ValueError: as `load_coco_json`; or it has no pictures, no truth where one is needed (train, val), or another
            number of classes than MODEL.NUM_CLASSES.
    """
    videos = build_unchecked_detection_list(cfg, split)
    if not len(videos):
        raise ValueError(f"{videos.source} lists no pictures")
    if not videos.has_truth and split != "test":
        raise ValueError(f"{videos.source} has no annotations, which the split {split} needs")
    if len(videos.class_names) != cfg.MODEL.NUM_CLASSES:
        raise ValueError(
            f"{videos.source} has {len(videos.class_names)} categories, MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}: "
            "labels would not mean what the model's outputs mean"
        )
    _check_files(videos)
    return videos


def build_unchecked_detection_list(cfg: CfgNode, split: str) -> DetectionList:
    """As `build_detection_list`, without a look at pictures and classes."""
    folder = cfg.DATA.PATH_TO_DATA_DIR
    path = join_prefix(folder, cfg.COCO.ANNOTATIONS.replace("{split}", split))
    images = join_prefix(cfg.DATA.PATH_PREFIX or folder, cfg.COCO.IMAGES.replace("{split}", split))
    return load_coco_json(path, image_dir=images)


def _read(path: str) -> dict[str, Any]:
    try:
        with pathmgr.open(path, "rb") as file:
            content = json.loads(file.read())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"There is no annotation file {path!r}; COCO.ANNOTATIONS and DATA.PATH_TO_DATA_DIR say where it is"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not a json file: {error}") from error
    needed = {"images": ("id", "file_name", "height", "width"), "categories": ("id", "name")}
    needed |= {"annotations": ("id", "image_id", "category_id", "bbox")}
    for name, keys in needed.items():
        rows = content.get(name) if isinstance(content, Mapping) else None
        if name == "annotations" and isinstance(content, Mapping) and name not in content:
            continue
        if not isinstance(rows, list):
            raise ValueError(f"{path} is not of COCO's form: it has no list {name!r}")
        for number, row in enumerate(rows):
            missing = [key for key in keys if not isinstance(row, Mapping) or key not in row]
            if missing:
                raise ValueError(f"{path}: {name}[{number}] has no {', '.join(missing)}: {str(row)[:100]}")
    return content


def _check_unique(path: str, name: str, ids: Sequence[Any]) -> None:
    repeated = [number for number, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: {len(repeated)} ids of {name} are there more than once, such as {repeated[0]}")


def _check_annotation(
    annotation: Mapping[str, Any],
    size_of: Mapping[Any, tuple[int, int]],
    category_ids: Collection[int],
    path: str,
) -> None:
    """Raises ValueError for a box that cannot be, or one of an unknown picture or class."""
    name = f"{path}: annotation {annotation['id']}"
    if annotation["image_id"] not in size_of:
        raise ValueError(f"{name} is of image_id {annotation['image_id']}, which the file does not list")
    if annotation["category_id"] not in category_ids:
        raise ValueError(f"{name} has category_id {annotation['category_id']}; the file has {list(category_ids)}")
    box, (height, width) = annotation["bbox"], size_of[annotation["image_id"]]
    if len(box) != 4 or not all(isinstance(value, int | float) and math.isfinite(value) for value in box):
        raise ValueError(f"{name} has bbox {box}; four finite numbers are legal: x, y, width, height")
    x, y, w, h = box
    if w < 0 or h < 0:
        raise ValueError(
            f"{name} has bbox {box}, whose width or height is negative; legal is x, y, width, height, not two corners "
            "in reverse"
        )
    if min(x, y) < -_TOLERANCE_PX or x + w > width + _TOLERANCE_PX or y + h > height + _TOLERANCE_PX:
        raise ValueError(
            f"{name} has bbox {box}, which lies outside its picture of {width} x {height} px; legal is x, y, width, "
            "height in px"
        )


def _check_empty(annotations: Sequence[Mapping[str, Any]], path: str) -> None:
    """Names empty boxes, which training leaves out; raises ValueError where they are no rare accident."""
    empty = [annotation for annotation in annotations if 0 in annotation["bbox"][2:]]
    if not empty:
        return
    message = (
        f"{path}: annotation {empty[0]['id']} has bbox {empty[0]['bbox']}, which is empty: its width or height is 0"
        + (f"; so have {len(empty) - 1} more" if len(empty) > 1 else "")
    )
    if len(empty) > _MAX_EMPTY_SHARE * len(annotations):
        raise ValueError(message)
    logger.warning("%s", message)


def _check_files(videos: DetectionList) -> None:
    chosen = videos.paths[:: max(len(videos) // _NUM_FILES_CHECKED, 1)].tolist()
    local = [get_container(path) for path in chosen if not is_url(path)]
    missing = [path for path in local if not os.path.exists(path)]
    if not missing:
        return
    if len(missing) == len(local):
        raise FileNotFoundError(
            f"{videos.source}: none of {len(local)} pictures looked for exists, the first is {missing[0]}; COCO.IMAGES "
            "says in which folder they are"
        )
    logger.warning(
        "%s: %d of %d pictures looked for do not exist, such as %s", videos.source, len(missing), len(local), missing[0]
    )
