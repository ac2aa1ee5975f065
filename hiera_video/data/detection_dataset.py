"""Pictures with boxes and masks as samples, and the loaders of their lists."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode

from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.coco_lists import DetectionList, build_detection_list
from hiera_video.data.detection_transforms import DetectionTransform, build_detection_transform, kept_size
from hiera_video.data.loader import build_epoch_loader, build_eval_loader
from hiera_video.data.samples import SampleDataset, collate_rest
from hiera_video.utils.logging import get_logger
from hiera_video.utils.rng import seeded
from hiera_video.video import VideoDecodeError, VideoReader
from hiera_video.video.file_cache import FileCache, build_file_cache

logger = get_logger(__name__)


class DetectionDataset(SampleDataset):
    """Samples of a list of pictures; see `SampleDataset`.

    A sample is a dict:

    - ``picture``: uint8 (3, S, S); ``size``: (height, width) of what is no padding
    - ``placement``: where the picture lies in it, see `Placement`
    - ``target``: in training, see `DetectionTransform.make_target`
    - ``index``: int, position in the list; ``bad``: list of `BadVideo`

    Args:
        videos: the list; in training from `DetectionList.select_for_training`.
        transform: makes the square.
        is_training: samples have targets, and another picture stands in for one that does not decode.
        seed: first part of each sample's random key.
        cache: see `VideoReader`.
    """

    def __init__(
        self,
        videos: DetectionList,
        *,
        transform: DetectionTransform,
        is_training: bool,
        seed: int,
        cache: FileCache | None = None,
    ) -> None:
        super().__init__(videos, num_samples=1, replaces_bad=is_training, seed=seed)
        self.videos: DetectionList = videos
        self.transform, self.is_training, self._cache = transform, is_training, cache
        self._label_of = {number: label for label, number in enumerate(videos.category_ids, start=1)}

    def load(self, epoch: int, index: int) -> dict[str, Any]:
        """The picture in its square, and in training its target."""
        picture = read_picture(str(self.videos.paths[index]), self._cache)
        size = (picture.shape[0], picture.shape[1])
        self._check_size(index, size)
        with seeded(self.seed, epoch, index, 0, 0):
            placement = self.transform.choose_placement(size)
        size_px = self.transform.size_px
        sample = {
            "picture": self.transform.place(picture, placement),
            "size": kept_size(placement, size_px),
            "placement": placement,
        }
        if self.is_training:
            sample["target"] = self.transform.make_target(*self._read_masks(index, size), placement)
        return sample

    def make_bad(self, index: int) -> dict[str, Any]:
        """A picture of padding."""
        height, width = self.videos.sizes[index].tolist()
        size_px = self.transform.size_px
        placement = self.transform.choose_placement((height, width))
        picture = torch.zeros(3, size_px, size_px, dtype=torch.uint8)
        return {"picture": picture, "size": (size_px, size_px), "placement": placement}

    def _check_size(self, index: int, size: tuple[int, int]) -> None:
        listed = tuple(self.videos.sizes[index].tolist())
        if listed != size:
            raise VideoDecodeError(
                f"{self.videos.paths[index]}: the picture is {size[1]} x {size[0]} px, {self.videos.source} says "
                f"{listed[1]} x {listed[0]}: boxes and masks would not fit it"
            )

    def _read_masks(self, index: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """All masks of a picture, uint8 (n, H, W), and their labels, int64 (n,), which count from 1."""
        annotations = self.videos.get_annotations(index)
        masks = [decode_mask(annotation, size, self.videos.source) for annotation in annotations]
        labels = [self._label_of[annotation["category_id"]] for annotation in annotations]
        return torch.from_numpy(np.stack(masks)), torch.tensor(labels)

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch: ``picture`` uint8 (B, 3, S, S), ``index`` int64 (B,), ``bad`` one list, and lists of the rest."""
        names = ("size", "placement", "target") if "target" in samples[0] else ("size", "placement")
        return {
            "picture": torch.stack([sample["picture"] for sample in samples]),
            **{name: [sample[name] for sample in samples] for name in names},
            **collate_rest(samples),
        }


def read_picture(path: str, cache: FileCache | None = None) -> torch.Tensor:
    """The pixels of a picture (path or URL), uint8 (H, W, 3); for cache see `VideoReader`.

    Raises:
        FileNotFoundError: no such file.
        VideoDecodeError: it does not decode.
    """
    with VideoReader(path, cache=cache) as reader:
        return reader.get_frames([0])[0]


def decode_mask(annotation: dict[str, Any], size: tuple[int, int], source: str) -> np.ndarray:
    """The mask of an annotation in COCO's form: polygons, or a run-length code, compressed or not.

    Args:
        annotation: has ``segmentation`` and ``id``.
        size: height and width of the picture, px.
        source: the file, for messages.

    Returns:
        uint8 (H, W) of zeros and ones.

    Raises:
        ValueError: there is no mask, or it is of none of these forms; names the file and the annotation.
    """
    mask_api = import_mask_api()
    segmentation = annotation.get("segmentation")
    try:
        if not segmentation:
            raise ValueError("it is missing, and a detector of masks learns from them")
        codes = mask_api.frPyObjects(segmentation, *size) if _needs_encoding(segmentation) else segmentation
        mask = mask_api.decode(mask_api.merge(codes) if isinstance(codes, list) else codes)
        if mask.shape != size:
            raise ValueError(f"it is of a picture of {mask.shape[1]} x {mask.shape[0]} px, not {size[1]} x {size[0]}")
        return mask
    except Exception as error:  # what the package raises for a wrong form depends on the form
        raise ValueError(f"{source}: annotation {annotation['id']}: segmentation: {error}") from error


def import_mask_api() -> Any:
    """The run-length codes of faster-coco-eval. Raises ImportError that says what to install."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError("detection needs faster-coco-eval: pip install 'hiera_video[detection]'") from error
    return mask


def build_detection_train_loader(cfg: CfgNode) -> BatchLoader:
    """Loader of the training list without crowds and empty pictures; its ``sampler`` is an `EpochSampler`.

    Raises:
        ValueError: TRAIN.BATCH_SIZE cannot be divided among the processes, or no picture is left.
    """
    whole = build_detection_list(cfg, "train")
    videos = whole.select_for_training()
    logger.info("%s: training takes the %d of %d pictures with things on them", whole.source, len(videos), len(whole))
    transform = build_detection_transform(cfg, size_px=cfg.DATA.TRAIN_CROP_SIZE, is_training=True)
    dataset = DetectionDataset(
        videos, transform=transform, is_training=True, seed=cfg.RNG_SEED, cache=build_file_cache(cfg)
    )
    return build_epoch_loader(cfg, dataset)


def build_detection_eval_loader(
    cfg: CfgNode, videos: DetectionList, *, size_px: int, leave_out: Collection[int] = ()
) -> BatchLoader:
    """Loader of whole pictures, each once over all processes.

    Args:
        videos: the list.
        size_px: side of the square.
        leave_out: positions in the list that are not loaded.
    """
    transform = build_detection_transform(cfg, size_px=size_px)
    dataset = DetectionDataset(
        videos, transform=transform, is_training=False, seed=cfg.RNG_SEED, cache=build_file_cache(cfg)
    )
    return build_eval_loader(cfg, dataset, leave_out=leave_out)


def _needs_encoding(segmentation: Any) -> bool:
    return isinstance(segmentation, list) or isinstance(segmentation.get("counts"), list)
