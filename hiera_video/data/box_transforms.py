"""Views of a clip together with boxes: the pixels are those of transforms.py, and boxes go where their pixels go.

Boxes are x1, y1, x2, y2 in pixels, float32 (r, 4), on continuous coordinates: a frame's first pixel covers [0, 1). So
resizing, cutting and flipping are exact for them, and `ViewMap` leads back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode

from hiera_video.data.transforms import EvalTransform, TrainTransform, Window, build_train_transform

_NUM_DRAWS = 10


@dataclass(frozen=True)
class ViewMap:
    """Which part of a frame a square view shows, so that boxes go from one to the other.

    Attributes:
        left, top, width, height: of the shown part, in pixels of the frame.
        size_px: side of the view.
        is_flipped: whether the view is flipped left to right.
    """

    left: float
    top: float
    width: float
    height: float
    size_px: int
    is_flipped: bool = False

    def to_view(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes of the frame (r, 4) -> the same in pixels of the view, where they may reach beyond it."""
        corner, scale = self._get_corner_and_scale()
        moved = (boxes.double() - corner) * scale
        return (self._flip(moved) if self.is_flipped else moved).float()

    def to_frame(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes of the view (r, 4) -> the same in pixels of the frame."""
        corner, scale = self._get_corner_and_scale()
        moved = self._flip(boxes.double()) if self.is_flipped else boxes.double()
        return (moved / scale + corner).float()

    def _get_corner_and_scale(self) -> tuple[torch.Tensor, torch.Tensor]:
        corner = torch.tensor([self.left, self.top] * 2, dtype=torch.float64)
        return corner, self.size_px / torch.tensor([self.width, self.height] * 2, dtype=torch.float64)

    def _flip(self, boxes: torch.Tensor) -> torch.Tensor:
        x1, y1, x2, y2 = boxes.unbind(1)
        return torch.stack([self.size_px - x2, y1, self.size_px - x1, y2], dim=1)


def clip_boxes(boxes: torch.Tensor, size_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cuts boxes off at the borders of a view.

    Args:
        boxes: float32 (r, 4), px of the view.
        size_px: its side.

    Returns:
        The boxes, and bool (r,), whether nothing of a box lies in the view. Such a box stays as it is.
    """
    clipped = boxes.clamp(0, size_px)
    is_outside = (clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1])
    return torch.where(is_outside[:, None], boxes, clipped), is_outside


class BoxTransform(ABC):
    """Frames of a clip and the boxes of its key frame -> one view, and where it lies.

    Attributes:
        size_px: side of the view.
    """

    size_px: int

    @abstractmethod
    def __call__(self, frames: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, ViewMap]:
        """Draws what is to be drawn from the global generators.

        Args:
            frames: uint8 (T, H, W, C), not changed.
            boxes: float32 (r, 4), px of the frames.

        Returns:
            The view, uint8 (C, T, size_px, size_px), and the way of boxes into it.
        """


class BoxTrainTransform(BoxTransform):
    """An augmented view that shows at least a part of one box.

    A window without any box is drawn again, at most 10 times; then it is the largest square around the middle of one of
    the boxes, as far as the frame reaches.

    Args:
        transform: what is done to pixels. No RandAugment: it turns and shears pictures, and boxes would stay.

    Differs: SlowFast trains on windows without boxes, and on boxes outside of them.
    """

    def __init__(self, transform: TrainTransform) -> None:
        if transform.rand_augment is not None:
            raise ValueError("AUG.AA_TYPE: RandAugment turns and shears pictures without their boxes; it must be ''")
        self.transform, self.size_px = transform, transform.size_px

    def __call__(self, frames: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, ViewMap]:
        """Draws and writes the view, see `BoxTransform`."""
        num_frames, height, width, channels = self.transform.prepare(frames).shape
        window = self._draw_window(height, width, boxes)
        view = torch.empty((channels, num_frames, self.size_px, self.size_px), dtype=torch.uint8)
        self.transform.write_window(frames.unbind(), view, window)
        return view, self._map(window)

    def _draw_window(self, height: int, width: int, boxes: torch.Tensor) -> Window:
        for _ in range(_NUM_DRAWS):
            window = self.transform.draw_window(height, width)
            if not len(boxes) or self._shows_any(window, boxes):
                return window
        side = min(height, width)
        x1, y1, x2, y2 = boxes[int(torch.randint(len(boxes), (1,)))].tolist()
        top = min(max(round((y1 + y2 - side) / 2), 0), height - side)
        left = min(max(round((x1 + x2 - side) / 2), 0), width - side)
        return Window(top, left, side, side, window.is_flipped)

    def _shows_any(self, window: Window, boxes: torch.Tensor) -> bool:
        _, is_outside = clip_boxes(self._map(window).to_view(boxes), self.size_px)
        return not bool(is_outside.all())

    def _map(self, window: Window) -> ViewMap:
        top, left, height, width, is_flipped = window
        return ViewMap(left, top, width, height, self.size_px, is_flipped)


class BoxEvalTransform(BoxTransform):
    """The shorter side resized to the view's, and the center cut out, as the paper tests on AVA.

    Args:
        size_px: side of the view.
        interpolation: "bilinear" or "bicubic".
        like: see `EvalTransform`.
    """

    def __init__(self, size_px: int, *, interpolation: str = "bilinear", like: str = "slowfast") -> None:
        self.transform = EvalTransform(
            num_crops=1, short_side_px=size_px, crop_size_px=size_px, interpolation=interpolation, like=like
        )
        self.size_px = size_px

    def __call__(self, frames: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, ViewMap]:
        """Writes the view, see `BoxTransform`; it does not depend on the boxes."""
        height, width = frames.shape[1:3]
        prepared = self.transform.prepare(frames)
        num_frames, prepared_height, prepared_width, channels = prepared.shape
        view = torch.empty((channels, num_frames, self.size_px, self.size_px), dtype=torch.uint8)
        self.transform.write_views(prepared.unbind(), view[None])
        ((top, left),) = self.transform.find_corners(prepared_height, prepared_width)
        x_scale, y_scale = width / prepared_width, height / prepared_height  # not the same: sides are whole pixels
        size = self.size_px
        return view, ViewMap(left * x_scale, top * y_scale, size * x_scale, size * y_scale, size)


def build_box_train_transform(cfg: CfgNode) -> BoxTrainTransform:
    """The augmentation that DATA and AUG ask for. Raises ValueError where it would leave boxes behind."""
    return BoxTrainTransform(build_train_transform(cfg))


def build_box_eval_transform(cfg: CfgNode) -> BoxEvalTransform:
    """The center view of DATA.TEST_CROP_SIZE."""
    return BoxEvalTransform(cfg.DATA.TEST_CROP_SIZE, interpolation=cfg.DATA.INTERPOLATION, like=cfg.DATA.TRANSFORMS)
