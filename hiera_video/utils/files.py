"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write. A crash at any moment leaves the old file or the new one, never a part of one.

    Until the block ends, the file has ``.partial`` behind its name; an error removes that, as it may fill the disk.
    Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: Any) -> None:
    """Writes bytes, or a buffer of them, by `open_whole`."""
    with open_whole(path) as file:
        file.write(content)


def write_parquet(path: Path, table: Any, **options: Any) -> None:
    """Writes a table of pyarrow as Parquet, by `open_whole`.

    Args:
        path: the file.
        table: a `pyarrow.Table`.
        **options: of `pyarrow.parquet.write_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, **options)
    write_whole(path, buffer.getvalue())


def move_into_place(partial: Path, path: Path) -> None:
    """Gives a complete file its name once its bytes are on the disk, so that a crash leaves no part of one there."""
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
