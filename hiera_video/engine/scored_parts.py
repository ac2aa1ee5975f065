"""What a test has scored so far, on disk, so that a test that is interrupted goes on where it was."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import simplejson
import torch
from fvcore.common.config import CfgNode

from hiera_video.data.samples import SampleList
from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.utils.distributed import all_gather_objects, barrier, get_local_rank, get_rank, is_main_process
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger
from hiera_video.utils.trees import compute_tree_digest

logger = get_logger(__name__)

_PERIOD_SEC = 30.0
# Sections and keys that decide the numbers of a test.
_SETTINGS = ("TEST.", "DATA.", "AVA.", "COCO.", "DETECTOR.", "MODEL.", "HIERA.", "TRAIN.PRECISION")
_NO_SETTINGS = (
    *("TEST.ENABLE", "TEST.CHECKPOINT_FILE_PATH", "TEST.BATCH_SIZE", "MODEL.COMPILE"),
    *("DATA.MAX_BAD_VIDEOS", "DATA.TIMEOUT_SEC", "DATA.MANIFEST", "DATA.TRAIN_", "AVA.TRAIN_"),
)


class ScoredParts:
    """Folder ``test_parts`` of OUTPUT_DIR, while a test is unfinished: settings.json and files of scores.

    Args:
        output_dir: of the job.
        settings: name -> text of what the scores depend on.

    Raises:
        ValueError: the folder is of a test with other settings; names them.
    """

    def __init__(self, output_dir: str | Path, settings: dict[str, str]) -> None:
        self.folder, self.settings = Path(output_dir) / "test_parts", settings
        self._rows: list[tuple[int, Any]] = []
        self._failed: dict[int, str] = {}
        self._written_at = time.monotonic()
        if is_main_process():
            self._check_settings()
        barrier()
        self.before = self.read()  # of the jobs before this one

    def read(self) -> tuple[list[tuple[int, Any]], dict[int, str]]:
        """All that is scored: position and value of each sample, and position -> reason of failures.

        One process of each machine reads what lies there, and all get the same.
        """
        local = (
            [self._read_file(path) for path in sorted(self.folder.glob("part_*.pth"))] if not get_local_rank() else []
        )
        contents = [content for part in all_gather_objects(local) for content in part if content]
        failed = {position: reason for content in contents for position, reason in content["failed"].items()}
        rows = (zip(content["index"], content["values"], strict=True) for content in contents)
        return list(dict(row for part in rows for row in part).items()), failed  # machines may share a folder

    def add(self, rows: list[tuple[int, Any]], failed: dict[int, str]) -> None:
        """Takes positions and values of a batch of this process, and writes what it has every half a minute.

        Args:
            rows: values are trees of CPU tensors, numbers and texts.
            failed: position -> reason.
        """
        self._rows += rows
        self._failed |= failed
        if time.monotonic() - self._written_at > _PERIOD_SEC:
            self.write()

    def write(self) -> None:
        """Writes what has been added since the last time; if that fails, it is tried again with the next part."""
        self._written_at = time.monotonic()
        if not self._rows:
            return
        content = {
            "index": [position for position, _ in self._rows],
            "values": [value for _, value in self._rows],
            "failed": self._failed,
        }
        path = self.folder / f"part_{time.time_ns()}_rank_{get_rank()}.pth"
        try:
            save_checkpoint(path, {**content, "digest": compute_tree_digest(content)})
        except OSError as error:
            logger.error("scores of %d videos are not on disk yet: %s", len(self._rows), error)
            return
        self._rows, self._failed = [], {}

    def remove(self) -> None:
        """Removes the folder, when the results are written. All processes call it."""
        barrier()
        if not get_local_rank():
            shutil.rmtree(self.folder, ignore_errors=True)
        barrier()

    def _check_settings(self) -> None:
        path = self.folder / "settings.json"
        if not path.exists():
            write_whole(path, (simplejson.dumps(self.settings, indent=1) + "\n").encode())
            return
        before = simplejson.loads(path.read_text())
        names = sorted(before.keys() | self.settings.keys())
        changes = [
            f"{name}: {before.get(name)} -> {self.settings.get(name)}"
            for name in names
            if before.get(name) != self.settings.get(name)
        ]
        if changes:
            raise ValueError(
                f"{self.folder} holds an unfinished test with other settings: {'; '.join(changes)}. Give the old ones "
                f"to finish it, another OUTPUT_DIR, or remove {self.folder}"
            )

    def _read_file(self, path: Path) -> dict[str, Any] | None:
        try:
            content = torch.load(path, weights_only=True)
            digest = content.pop("digest")
            if compute_tree_digest(content) == digest:
                return content
            reason = "its content does not fit its digest"
        except Exception as error:  # a damaged file can make an unpickler raise anything
            reason = str(error).split("\n")[0]
        logger.error("%s is damaged, and its videos are scored again: %s", path, reason)
        path.unlink(missing_ok=True)
        return None


def describe_settings(cfg: CfgNode, checkpoint: str, videos: SampleList) -> dict[str, str]:
    """What the scores of a test depend on, by name."""
    settings: dict[str, str] = {}
    for section, node in cfg.items():
        keys = node.items() if isinstance(node, CfgNode) else ()
        settings |= {f"{section}.{key}": str(value) for key, value in keys}
    settings = {
        key: value for key, value in settings.items() if key.startswith(_SETTINGS) and not key.startswith(_NO_SETTINGS)
    }
    settings["weights"] = f"{checkpoint}, SHA-256 {compute_tree_digest(read_checkpoint_file(checkpoint).weights)}"
    content = {"paths": [str(path) for path in videos.paths], "labels": videos.labels.tolist()}
    label_sets = getattr(videos, "label_sets", None)  # only a list of clips has them
    if label_sets is not None:
        content["labels"] = [label_sets.get(i).tolist() for i in range(len(videos))]
    settings["list"] = f"{len(videos)} videos, SHA-256 of paths and labels {compute_tree_digest(content)}"
    return settings
