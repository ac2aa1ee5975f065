"""Packs videos into tar files of about equal size, which WebDataset reads as well; `video.shards` opens the members."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hiera_video.data.lists import UNLABELED
from hiera_video.utils.files import open_whole, write_whole
from hiera_video.utils.interrupt import raise_if_stopped
from hiera_video.utils.logging import get_logger
from hiera_video.utils.rng import compute_seed
from hiera_video.video.frames_backend import is_frames_path
from hiera_video.video.remote import UnreachableError
from hiera_video.video.shard_index import INDEX_SUFFIX, load_index
from hiera_video.video.shard_writer import END_BYTES, ReadError, ShardWriter, count_tar_bytes, make_key
from hiera_video.video.shards import index_shard, name_member, split_member
from hiera_video.video.source import find_source

logger = get_logger(__name__)

Label = int | tuple[int, ...]  # a video's class, or in lists with any number of classes for a video its classes


class _Sample(NamedTuple):
    position: int  # in the list
    path: str
    label: Label
    key: str
    name: str  # of the video's member
    size_bytes: int


@dataclass
class Packed:
    """What has become of a list of videos.

    Attributes:
        members: for each video the path of its member, such as ``train-000000.tar#a/b.mp4``, relative to the folder of
            the shards; None for one that could not be packed.
        failures: path of such a video -> why.
        num_shards: how many tar files there are.
        num_bytes: their size.
    """

    members: list[str | None]
    failures: dict[str, str] = field(default_factory=dict)
    num_shards: int = 0
    num_bytes: int = 0


def pack(
    paths: Sequence[str],
    labels: Sequence[Label],
    *,
    output_dir: str | os.PathLike[str],
    prefix: str = "shard",
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    shard_bytes: int = 10**9,
    seed: int | None = 0,
    on_video: Callable[[int], object] | None = None,
) -> Packed:
    """Packs a list of videos into ``prefix-000000.tar``, ``prefix-000001.tar`` and so on, each with its index.

    A sample is a video, ``.cls`` with its label, and ``.json`` with its path, label and class, under one key. The bytes
    of a video stay as they are. A tar file is written whole or not at all; those that are there are not written again.
    What the folder was packed from and how stands in ``prefix.packing.json``.

    Args:
        paths: of the videos: files, URLs, or members of other shards.
        labels: of each; `UNLABELED` for none. Tuples, where a video has any number of classes: these stand in ``.json``
            alone, as ``labels`` and ``classes``.
        output_dir: gets the tar files.
        prefix: how their names begin; one for each list.
        names: a name of each video, with its suffix, of which its key is made; None: its path below the folder of all.
        class_names: name of each label.
        shard_bytes: a tar file is at most this long, unless it holds a single video.
        seed: of the order in which videos come in the shards, for those who read them from front to back; None: that of
            the list.
        on_video: called with the bytes of each video that is packed, also of those from an earlier start.

    Raises:
        FileNotFoundError: none of the videos can be packed.
        ValueError: the folder holds shards of other videos, or packed in another way.
        UnreachableError: the server of a video does not answer: a later start may go on.
        OSError: a tar file cannot be written.
    """
    folder = Path(output_dir)
    packed = Packed([None] * len(paths))
    samples = list(_plan_samples(paths, labels, names or _shorten(paths), packed))
    if not samples:
        path, reason = next(iter(packed.failures.items()), (str(folder), "the list is empty"))
        raise FileNotFoundError(f"none of {len(paths)} videos can be packed; {path}: {reason}")
    digest = hashlib.blake2b(digest_size=16)
    for path, label in zip(paths, labels, strict=True):
        digest.update(f"{path}\n{label}\n".encode("utf-8", "surrogateescape"))
    for sample in samples:
        digest.update(f"{sample}\n".encode("utf-8", "surrogateescape"))
    settings = {"videos": len(paths), "digest": digest.hexdigest(), "shard_bytes": shard_bytes, "seed": seed}
    state = _open_state(folder, prefix, settings)
    if seed is not None:
        order = np.random.default_rng(compute_seed(seed)).permutation(len(samples))
        samples = [samples[place] for place in order]
    for number, group in enumerate(_split(samples, shard_bytes, class_names)):
        shard = folder / f"{prefix}-{number:06}.tar"
        if not shard.exists():
            _write_shard(shard, group, class_names, state)
        held = _read_names(shard)
        for sample in group:
            if sample.name in held:
                packed.members[sample.position] = name_member(shard.name, sample.name)
                if on_video is not None:
                    on_video(sample.size_bytes)
            else:
                packed.failures[sample.path] = state.failures.get(sample.path, "is not in its tar file")
        packed.num_shards, packed.num_bytes = number + 1, packed.num_bytes + shard.stat().st_size
    return packed


@dataclass
class _State:
    """What `pack` writes down beside its shards."""

    path: Path
    settings: dict[str, Any]
    failures: dict[str, str]

    def write(self) -> None:
        text = json.dumps({"settings": self.settings, "failures": self.failures}, indent=1)
        write_whole(self.path, (text + "\n").encode("utf-8", "surrogateescape"))


def _open_state(folder: Path, prefix: str, settings: dict[str, Any]) -> _State:
    path = folder / f"{prefix}.packing.json"
    state = _State(path, settings, {})
    if not path.is_file():
        found = sorted(folder.glob(f"{prefix}-??????.tar"))
        if found:
            raise ValueError(f"{found[0]} is there, but not {path.name}, which says of what it is: take another folder")
        state.write()
        return state
    kept = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"))
    old = kept["settings"]
    changed = [f"{name}: {old.get(name)!r} there, {settings[name]!r} now" for name in settings
               if settings[name] != old.get(name)]  # fmt: skip
    if changed:
        if set(settings) - {"digest"} == {name for name in settings if settings[name] == old.get(name)}:
            changed = ["the paths, labels or sizes of the videos are others now"]
        raise ValueError(
            f"{folder} holds shards that were packed otherwise ({'; '.join(changed)}): take another folder, or "
            "remove this one"
        )
    state.failures = kept["failures"]
    return state


def _plan_samples(
    paths: Sequence[str], labels: Sequence[Label], names: Sequence[str], packed: Packed
) -> Iterator[_Sample]:
    """The samples, whose keys differ; what cannot be packed goes to the failures."""
    used: set[str] = set()
    for position, (path, label, name) in enumerate(zip(paths, labels, names, strict=True)):
        stem, suffix = os.path.splitext(name)
        key = make_key(stem)
        if key in used:
            key = next(other for number in itertools.count(2) if (other := f"{key}-{number}") not in used)
        used.add(key)
        try:
            if is_frames_path(path):
                raise ValueError("a folder or series of pictures is not packed: prepare it as a video first")
            source = find_source(path)
            size_bytes = source.size_bytes
            source.close()
        except UnreachableError:
            raise
        except (OSError, ValueError) as error:
            packed.failures[path] = str(error).removeprefix(f"{path}: ")
            continue
        suffix = re.sub(r"[^a-z0-9]", "", suffix.lower()) or "video"
        yield _Sample(position, path, label, key, f"{key}.{suffix}", size_bytes)


def _shorten(paths: Sequence[str]) -> list[str]:
    """The paths below the folder of all, without scheme and server."""
    members = [split_member(path) for path in paths]
    parts = [
        [*os.path.splitext(member[0])[0].split("/"), *member[1].split("/")]
        if member is not None
        else (path.split("://", 1)[-1] if "://" in path else os.path.abspath(path)).split("/")
        for path, member in zip(paths, members, strict=True)
    ]
    depth = 0
    while parts and all(len(part) > depth + 1 and part[depth] == parts[0][depth] for part in parts):
        depth += 1
    return ["/".join(part[depth:]) for part in parts]


def _split(samples: list[_Sample], shard_bytes: int, class_names: Sequence[str] | None) -> Iterator[list[_Sample]]:
    """The samples of each shard, in their order."""
    group: list[_Sample] = []
    total = END_BYTES
    for sample in samples:
        extras = sum(count_tar_bytes(name, len(data)) for name, data in _make_extras(sample, class_names))
        needed = count_tar_bytes(sample.name, sample.size_bytes) + extras
        if group and total + needed > shard_bytes:
            yield group
            group, total = [], END_BYTES
        group.append(sample)
        total += needed
    if group:
        yield group


def _make_extras(sample: _Sample, class_names: Sequence[str] | None) -> list[tuple[str, bytes]]:
    """Name and bytes of the members beside the video."""
    facts: dict[str, Any] = {"path": sample.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")}
    extras = []
    if isinstance(sample.label, tuple):
        facts["labels"] = sample.label
        if class_names is not None:
            facts["classes"] = [class_names[label] for label in sample.label if label < len(class_names)]
    elif sample.label != UNLABELED:
        facts["label"] = sample.label
        if class_names is not None and sample.label < len(class_names):
            facts["class"] = class_names[sample.label]
        extras.append((f"{sample.key}.cls", str(sample.label).encode()))
    return [*extras, (f"{sample.key}.json", json.dumps(facts, ensure_ascii=False).encode())]


def _write_shard(shard: Path, group: list[_Sample], class_names: Sequence[str] | None, state: _State) -> None:
    num_failed = len(state.failures)
    with open_whole(shard) as file:
        writer = ShardWriter(file)
        for sample in group:
            raise_if_stopped(f"{shard.name} is not written; the shards before it are")
            reason = _add_video(writer, sample)
            if reason:
                state.failures[sample.path] = reason
                continue
            for name, data in _make_extras(sample, class_names):
                writer.add_bytes(name, data)
        index = writer.finish(str(shard))
        if len(state.failures) > num_failed:
            state.write()  # before the tar file, which lacks them, has its name
    index.write(Path(f"{shard}{INDEX_SUFFIX}"))
    logger.info("%s: %d videos", shard, len(group))


def _add_video(writer: ShardWriter, sample: _Sample) -> str:
    """Adds the bytes of a video; returns why it could not be read, or ""."""
    try:
        source = find_source(sample.path)
    except UnreachableError:
        raise
    except OSError as error:
        return str(error).removeprefix(f"{sample.path}: ")
    try:
        with source.open_bytes() as data:
            if source.size_bytes != sample.size_bytes:
                return f"it had {sample.size_bytes} bytes when packing began, now {source.size_bytes}"
            writer.add(sample.name, data, sample.size_bytes)
    except ReadError as error:
        return str(error).removeprefix(f"{sample.path}: ")
    finally:
        source.close()
    return ""


def _read_names(shard: Path) -> set[str]:
    """The members of a shard that is there; its index is made where the process was killed before it was written."""
    beside = Path(f"{shard}{INDEX_SUFFIX}")
    try:
        return set(load_index(beside, size_bytes=shard.stat().st_size).names)
    except (ValueError, FileNotFoundError):
        index_shard(str(shard))
        return set(load_index(beside, size_bytes=shard.stat().st_size).names)
