"""Tables and numbers for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def format_table(rows: Iterable[Sequence[str]], sides: str) -> str:
    """Rows as text. ``sides`` aligns each column to the left (<) or right (>); unprintable letters become escapes."""
    cells = [["".join(c if c.isprintable() else repr(c)[1:-1] for c in cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def format_bytes(count: float) -> str:
    """Bytes in the unit that suits them, in powers of ten: 950 B, 1.5 kB, 8.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
