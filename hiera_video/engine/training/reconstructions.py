"""Pictures of what a masked autoencoder makes of the same clips as it learns, for the report of the job."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from hiera_video.engine.reconstruct import load_center_clip, paint_clip
from hiera_video.models.hiera_mae import HieraMAE
from hiera_video.report.run_files import RECONSTRUCTIONS
from hiera_video.utils.distributed import broadcast_tree, is_main_process
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger
from hiera_video.video import VideoDecodeError

logger = get_logger(__name__)

_HEIGHT_PX = 112  # of a frame in the written pictures, at most
_GAP_PX = 4
_JPEG_QUALITY = 85


class FixedClips:
    """Some clips of a list whose reconstructions are drawn again and again, with the same parts hidden.

    OUTPUT_DIR/reconstructions has a folder for each: ``original.jpg``, ``masked.jpg``, and ``epoch_NNNNN.jpg``, with
    the frames of the clip, one for each token in time, side by side.

    Args:
        cfg: of the pre-training; MAE.TARGET is pixel.
        paths: the list; REPORT.NUM_RECONSTRUCTIONS of it are taken, evenly spaced.
    """

    def __init__(self, cfg: CfgNode, paths: Sequence[str] | np.ndarray) -> None:
        self.cfg = cfg
        count = min(cfg.REPORT.NUM_RECONSTRUCTIONS, len(paths))
        self.paths = [str(paths[round(place)]) for place in np.linspace(0, len(paths) - 1, count)]
        self._clips: list[tuple[str, torch.Tensor]] | None = None

    def draw(self, model: HieraMAE, epoch: int) -> None:
        """Draws all clips; all processes call it together, and the main process writes.

        Args:
            model: on its device; put into eval mode meanwhile.
            epoch: how many are done.
        """
        if self._clips is None:  # one process decodes, so that all have the same clips whatever a disk does
            self._clips = broadcast_tree(self._load() if is_main_process() else None)
        was_training = model.training
        model.eval()
        for number, (name, clip) in enumerate(self._clips):
            rows = paint_clip(self.cfg, model, clip, seed=number)
            if is_main_process():
                self._write(name, rows, epoch)
        model.train(was_training)

    def _load(self) -> list[tuple[str, torch.Tensor]]:
        clips = []
        for number, path in enumerate(self.paths):
            try:
                clip, _ = load_center_clip(self.cfg, path)
                clips.append((f"{number:02d}_{Path(path).stem}", clip))
            except (OSError, ValueError, VideoDecodeError) as error:
                logger.warning("no reconstruction of this clip will be drawn: %s", error)
        return clips

    def _write(self, name: str, rows: dict[str, np.ndarray], epoch: int) -> None:
        folder = Path(self.cfg.OUTPUT_DIR) / RECONSTRUCTIONS / name
        files = {"original": "original", "masked": "masked", "reconstructed": f"epoch_{epoch:05d}"}
        try:
            for title, frames in rows.items():
                write_whole(folder / f"{files[title]}.jpg", _make_strip(frames))
        except OSError as error:
            logger.warning("a reconstruction cannot be written: %s", error)


def _make_strip(frames: np.ndarray) -> bytes:
    """Frames uint8 (T, H, W, 3) side by side, as JPEG."""
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.thumbnail((4 * _HEIGHT_PX, _HEIGHT_PX))
    width, height = pictures[0].size
    strip = Image.new("RGB", (len(pictures) * (width + _GAP_PX) - _GAP_PX, height), "white")
    for column, picture in enumerate(pictures):
        strip.paste(picture, (column * (width + _GAP_PX), 0))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
