"""Lists of pictures and labels: ImageNet as folders, as the official tar archives, or as Parquet files.

Each list holds paths that say where a picture's bytes are (see `video.image_backend`), so that every picture counts
once and a training run resumes as with files.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from hiera_video.video.image_backend import IMAGE_SUFFIXES, name_parquet_row, name_tar_member

_SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
_UNLABELED = -1


Entries = tuple[list[str], list[int], tuple[str, ...] | None]  # paths, labels, class names


def find_images(folder: str, split: str) -> tuple[str, list[str]]:
    """What lies in a folder of ImageNet for a split: its kind, "folders", "tar" or "tables", and where.

    Looked for in this order:

    - ``<split>/<class>/*.JPEG``: class folders;
    - ``ILSVRC2012_img_<split>.tar`` or ``<split>.tar``: of one tar archive a class (training), of class folders, or
      flat with a list ``<split>.txt`` of ``name label`` lines beside it (validation);
    - ``<split>-*.parquet``, also in ``data/``: columns ``image`` (with ``bytes``) and ``label``, as on Hugging Face.

    Raises:
        FileNotFoundError: there is none of them.
    """
    for name in _SPLIT_NAMES[split]:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            return "folders", [path]
        for archive in (os.path.join(folder, f"ILSVRC2012_img_{name}.tar"), f"{path}.tar"):
            if os.path.isfile(archive):
                return "tar", [archive]
        tables = [t for sub in ("", "data") for t in sorted(glob.glob(os.path.join(folder, sub, f"{name}-*.parquet")))]
        if tables:
            return "tables", tables
    names = " or ".join(_SPLIT_NAMES[split])
    raise FileNotFoundError(
        f"{folder} holds no pictures of the split {split}: looked for class folders in {names}/, for "
        f"ILSVRC2012_img_*.tar or *.tar, and for *-*.parquet, each named {names}"
    )


def load_image_tar(path: str, *, class_names: Sequence[str] | None = None) -> Entries:
    """Lists the pictures of a tar archive, without reading them.

    Args:
        path: of the archive. Labels of a flat one are in ``<split>.txt`` beside it, ``name label`` a line.
        class_names: classes in the order of their labels; None for those of the archive in sorted order.

    Raises:
        FileNotFoundError: the archive is flat, and there is no list.
        ValueError: it is no tar archive, holds no picture, or a picture has no label.
    """
    try:
        members = sorted(_list_members(path))
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no tar archive, or ends too early: {error}") from error
    if not members:
        raise ValueError(f"{path} holds no picture ({', '.join(IMAGE_SUFFIXES)})")
    paths = [name_tar_member(path, f"{group}/{name}" if group else name, offset=offset, size=size)
             for group, name, offset, size in members]  # fmt: skip
    groups = [group for group, *_ in members]
    if any(groups):
        names = tuple(class_names or sorted(set(groups)))
        unknown = sorted(set(groups) - set(names))
        if unknown:
            raise ValueError(f"{path}: {unknown[0] or 'a picture outside any folder'} is none of {len(names)} classes")
        label_of = {name: label for label, name in enumerate(names)}
        return (paths, [label_of[group] for group in groups], names)
    list_path = re.sub(r"(ILSVRC2012_img_)?(\w+)\.tar$", r"\2.txt", path)
    labels = _read_labels(list_path, path)
    missing = [name for _, name, *_ in members if name not in labels]
    if missing:
        raise ValueError(f"{list_path} has no label of {len(missing)} pictures of {path}, such as {missing[0]}")
    return (paths, [labels[name] for _, name, *_ in members], tuple(class_names) if class_names else None)


def _list_members(path: str) -> Iterator[tuple[str, str, int, int]]:
    """(class or "", name, offset in the file, size) of each picture; looks into archives inside the archive."""
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            folder, name = os.path.split(member.name)
            if not member.isfile() or name.startswith("."):
                continue
            if name.endswith(".tar"):
                with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as inner:
                    for picture in inner:
                        if picture.isfile() and picture.name.lower().endswith(IMAGE_SUFFIXES):
                            start = member.offset_data + picture.offset_data
                            yield name.removesuffix(".tar"), os.path.basename(picture.name), start, picture.size
            elif name.lower().endswith(IMAGE_SUFFIXES):
                yield os.path.basename(folder) if folder.strip("./") else "", name, member.offset_data, member.size


def _read_labels(list_path: str, archive: str) -> dict[str, int]:
    if not os.path.isfile(list_path):
        raise FileNotFoundError(f"{archive} has no class folders, and there is no {list_path} with 'name label' lines")
    labels = {}
    with open(list_path) as file:
        for number, line in enumerate(file, start=1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or not words[1].lstrip("-").isdigit():
                raise ValueError(f"{list_path}:{number}: {line.strip()!r} is not a name and an integer label")
            labels[os.path.basename(words[0])] = int(words[1])
    return labels


def load_image_tables(paths: Sequence[str]) -> Entries:
    """Lists the rows of Parquet files with the columns ``image`` and ``label``, without reading pictures.

    Raises:
        ValueError: a file is none of these; names it.
    """
    places: list[str] = []
    labels: list[int] = []
    names: tuple[str, ...] | None = None
    for path in paths:
        try:
            table = pq.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is no Parquet file: {error}") from error
        missing = {"image", "label"} - set(table.schema_arrow.names)
        if missing:
            raise ValueError(f"{path} has no column {sorted(missing)}; it has {table.schema_arrow.names}")
        names = names or _read_hf_class_names(table.schema_arrow.metadata or {})
        for group in range(table.num_row_groups):
            found = table.read_row_group(group, columns=["label"]).column("label").to_pylist()
            places += [name_parquet_row(path, group=group, row=row) for row in range(len(found))]
            labels += [_UNLABELED if label is None else label for label in found]
    return (places, labels, names)


def _read_hf_class_names(metadata: dict[bytes, bytes]) -> tuple[str, ...] | None:
    try:
        return tuple(json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None
