"""The lists of a data set before and after: the same lines in the same order, with the paths of the prepared files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from fvcore.common.config import CfgNode

from hiera_video.data.build_lists import (
    CHARADES_CLASSES,
    build_unchecked_video_list,
    find_charades_csv,
    find_ssv2_json,
)
from hiera_video.data.label_sets import LabelSets
from hiera_video.data.lists import UNLABELED, VideoList, load_ssv2_json, write_class_names
from hiera_video.data.multilabel_lists import LABELS_FILE, NO_CLASS, load_charades_csv
from hiera_video.preparation.prepare_video import Outcome, Work
from hiera_video.streams.collect import SPLITS, Collection
from hiera_video.utils.files import write_whole
from hiera_video.utils.pathmgr import fetch_file, get_path_here, is_url
from hiera_video.video.manifest import write_manifest

FORMATS = ("kinetics", "ssv2", "ssv2_frames", "charades", "folders")
MANIFEST, CONFIG, CLASS_NAMES = "manifest.parquet", "prepared.yaml", "class_names.json"
_NAMED_BY_IDS = ("ssv2", "ssv2_frames", "charades")  # whose lists name videos by ids, without folders and endings
_VIDEOS = "videos"
_SSV2_NAMES = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class DataSet:
    """The lists to prepare, and which file each video becomes.

    Attributes:
        format: one of `FORMATS`.
        output_dir: absolute path of the folder that gets the files.
        lists: split -> its list of sources.
        targets: source -> absolute path of its new file, in the order of the lists; each source once.
        separator: what stands between path and label of a Kinetics list.
        copies: name in the output folder -> list that stays as it is.
    """

    format: str
    output_dir: str
    lists: dict[str, VideoList]
    targets: dict[str, str]
    separator: str = " "
    copies: dict[str, str] = field(default_factory=dict)

    @property
    def works(self) -> list[Work]:
        """What there is to do, in the order of the lists."""
        return [Work(source, target) for source, target in self.targets.items()]

    def write(self, outcomes: Mapping[str, Outcome]) -> dict[str, str]:
        """Writes lists, manifest, and the keys of a config that reads them; all videos have an outcome by source.

        A video that could not be prepared keeps its line: the manifest says why it has no file, so that training leaves
        it out and a test counts it as wrong, as before. In class folders whose files are the list it is absent.

        Returns:
            the keys.
        """
        folder = Path(self.output_dir)
        for name, source in self.copies.items():
            write_whole(folder / name, Path(fetch_file(source)).read_bytes())
        if self.format == "kinetics":
            for split, videos in self.lists.items():
                write_whole(folder / f"{split}.csv", "".join(self._make_lines(videos)).encode())
        self._write_manifest(outcomes)
        keys = {
            "FORMAT": {"ssv2_frames": "ssv2"}.get(self.format, self.format),
            "PATH_TO_DATA_DIR": self.output_dir,
            "PATH_PREFIX": str(folder / _VIDEOS) if self.format in _NAMED_BY_IDS else "",
            "VIDEO_SUFFIX": ".mp4",
            "MANIFEST": str(folder / MANIFEST),
        }
        if self.format == "kinetics":
            keys["PATH_LABEL_SEPARATOR"] = self.separator
        if self.format == "folders" and self._write_folders():
            keys["CLASS_NAMES_PATH"] = str(folder / CLASS_NAMES)
        write_whole(folder / CONFIG, yaml.safe_dump({"DATA": keys}, allow_unicode=True).encode())
        return {f"DATA.{name}": value for name, value in keys.items()}

    def _make_lines(self, videos: VideoList) -> Iterator[str]:
        for position, source in enumerate(videos.paths.tolist()):
            path = os.path.relpath(self.targets[source], self.output_dir)
            if path != path.strip() or path.startswith('"'):
                path = f'"{path}"'
            labels = self._describe_labels(videos, position)
            yield f"{path}{self.separator}{labels}\n" if labels else f"{path}\n"

    def _describe_labels(self, videos: VideoList, position: int) -> str:
        """As a list has them: a number, or several, or "-" for none of several; "" where they are unknown."""
        if videos.label_sets is None:
            label = int(videos.labels[position])
            return "" if label == UNLABELED else str(label)
        between = ";" if "," in self.separator else ","
        return between.join(map(str, videos.label_sets.get(position).tolist())) or NO_CLASS

    def _write_folders(self) -> bool:
        """Writes what class folders need besides videos; returns whether they have classes, whose names are written.

        Without these, labels would count only the classes of the splits that were prepared.
        """
        for target in self.targets.values():  # a class whose videos all failed keeps its folder
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        for split, videos in self.lists.items():
            if videos.label_sets is not None:
                split_dir = Path(self.output_dir, split)
                split_dir.mkdir(parents=True, exist_ok=True)
                text = self._make_labels_file(split_dir, videos, videos.label_sets)
                write_whole(split_dir / LABELS_FILE, text.encode())
        names = next(iter(self.lists.values())).class_names
        if names:
            write_class_names(Path(self.output_dir, CLASS_NAMES), names)
        return bool(names)

    def _make_labels_file(self, split_dir: Path, videos: VideoList, sets: LabelSets) -> str:
        """The text of `LABELS_FILE`; a video that lies elsewhere has its absolute path."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("video", "labels"))
        names = videos.class_names or ()
        for position, source in enumerate(videos.paths.tolist()):
            target = Path(self.targets[source])
            path = target.relative_to(split_dir) if target.is_relative_to(split_dir) else target
            writer.writerow((path, ";".join(names[label] for label in sets.get(position).tolist())))
        return text.getvalue()

    def _write_manifest(self, outcomes: Mapping[str, Outcome]) -> None:
        splits: dict[str, list[str]] = {}
        labels: dict[str, int] = {}
        for split, videos in self.lists.items():
            for source, label in zip(videos.paths.tolist(), videos.labels.tolist(), strict=True):
                target = self.targets[source]
                labels.setdefault(target, label)
                if split not in splits.setdefault(target, []):
                    splits[target].append(split)
        records = {self.targets[source]: outcomes[source].record for source in self.targets}
        write_manifest(Path(self.output_dir) / MANIFEST, records, splits=splits, labels=labels)


def build_data_set(
    cfg: CfgNode, output_dir: str, *, splits: Sequence[str] = (), taken: Mapping[str, str] | None = None
) -> DataSet:
    """The lists of a config, and a name for each new file: that of its source, below the folder of all sources.

    Args:
        cfg: the section DATA says where the lists are.
        output_dir: gets the files.
        splits: the splits to prepare; if empty, all that exist.
        taken: source -> file that it had become at an earlier start, relative to the folder.

    Raises:
        FileNotFoundError: there is no list.
        ValueError: the format has no list of videos, or the files would be written over their sources.
    """
    if cfg.DATA.FORMAT not in FORMATS:
        raise ValueError(f"DATA.FORMAT = {cfg.DATA.FORMAT} cannot be prepared; {', '.join(FORMATS)} can")
    if is_url(output_dir):
        raise ValueError(f"the output folder {output_dir} is not on this machine; prepare into a local or mounted one")
    output_dir = os.path.abspath(output_dir)
    lists, copies = _build_lists(cfg, splits)
    paths = list(dict.fromkeys(path for videos in lists.values() for path in videos.paths.tolist()))
    _check_names(paths)
    folder = output_dir if cfg.DATA.FORMAT == "folders" else os.path.join(output_dir, _VIDEOS)
    targets = {source: os.path.join(output_dir, target) for source, target in (taken or {}).items()}
    names = _build_names(cfg, lists, [path for path in paths if path not in targets], targets, folder)
    targets |= {path: os.path.join(folder, f"{name}.mp4") for path, name in names.items()}
    targets = {path: targets[path] for path in paths}
    _check_targets(targets)
    return DataSet(cfg.DATA.FORMAT, output_dir, lists, targets, cfg.DATA.PATH_LABEL_SEPARATOR, copies)


def _build_lists(cfg: CfgNode, splits: Sequence[str]) -> tuple[dict[str, VideoList], dict[str, str]]:
    """Split -> list, and the files of lists that stay as they are."""
    lists, copies, absent = {}, {}, []
    for split in splits or SPLITS:
        try:
            videos, source = build_unchecked_video_list(cfg, split, require_labels=False)
        except FileNotFoundError as error:
            if splits:
                raise
            absent.append(error)
            continue
        if len(videos) == 0:
            raise ValueError(f"{source} lists no videos")
        lists[split] = videos
        if cfg.DATA.FORMAT.startswith("ssv2"):
            copies[f"{_SSV2_NAMES[split]}.json"] = source
            copies["labels.json"] = find_ssv2_json(cfg.DATA.PATH_TO_DATA_DIR, "labels")
        elif cfg.DATA.FORMAT == "charades":
            copies[os.path.basename(source)] = source
            copies[CHARADES_CLASSES] = os.path.join(cfg.DATA.PATH_TO_DATA_DIR, CHARADES_CLASSES)
    if not lists:
        raise absent[0]
    return lists, copies


def _build_names(
    cfg: CfgNode, lists: Mapping[str, VideoList], paths: Sequence[str], taken: Mapping[str, str], folder: str
) -> dict[str, str]:
    """Path of each video -> a name that no other has: its id, or its path below the folder of all sources."""
    if cfg.DATA.FORMAT in _NAMED_BY_IDS:
        names: dict[str, str] = {}
        for split, videos in lists.items():
            names |= dict(zip(videos.paths.tolist(), _build_ids(cfg, split), strict=True))
        return {path: names[path] for path in paths}
    root = cfg.DATA.PATH_TO_DATA_DIR if cfg.DATA.FORMAT == "folders" else cfg.DATA.PATH_PREFIX
    array = np.array(paths, dtype=np.str_)
    collection = Collection(array, np.full(len(array), UNLABELED), root=root or cfg.DATA.PATH_TO_DATA_DIR)
    used = {os.path.relpath(target, folder).removesuffix(".mp4"): source for source, target in taken.items()}
    return dict(zip(paths, collection.make_ids(used), strict=True))


def _build_ids(cfg: CfgNode, split: str) -> list[str]:
    """The id of each video of a split."""
    folder = cfg.DATA.PATH_TO_DATA_DIR
    if cfg.DATA.FORMAT == "charades":
        source, classes = find_charades_csv(folder, split), os.path.join(folder, CHARADES_CLASSES)
        return load_charades_csv(source, classes, suffix="").paths.tolist()
    source, labels = find_ssv2_json(folder, _SSV2_NAMES[split]), find_ssv2_json(folder, "labels")
    return load_ssv2_json(source, labels, suffix="").paths.tolist()


def _check_names(paths: Sequence[str]) -> None:
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{path!r} is not UTF-8, so no table can hold this name; rename the file") from None


def _check_targets(targets: Mapping[str, str]) -> None:
    """Raises ValueError where a file would be written over a source."""
    sources = {os.path.realpath(here): path for path in targets if (here := get_path_here(path)) is not None}
    for target in targets.values():
        if (real := os.path.realpath(target)) in sources:
            raise ValueError(f"{target} would be written over {sources[real]}; take another output folder")
