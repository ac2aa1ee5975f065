"""A page of clips whose label is probably wrong, with what speaks against it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hiera_video.embeddings.label_errors import Evidence, Suspects
from hiera_video.report.clip_table import find_closed
from hiera_video.report.clips import ClipCard, ShownClip, encode_jpeg, load_cards, load_stills, make_url
from hiera_video.report.page import Bar, make_data_uri, render_page

NUM_NEIGHBORS = 4
_NUM_BARS = 3
_STILL_PX = (96, 72)


@dataclass(frozen=True)
class Neighbor:
    """A neighbor as evidence: its label, whether it is the suspect's, a small picture ("" for none), an address."""

    label: str
    is_same: bool
    cosine: float
    name: str
    picture: str
    href: str


@dataclass(frozen=True)
class SuspectCard:
    """What the template shows of a suspect."""

    card: ClipCard
    label: str
    suggested: str
    margin: float
    bars: Sequence[Bar]
    evidence: str
    neighbors: Sequence[Neighbor]


def render_label_errors_page(
    paths: Sequence[str],
    labels: np.ndarray,
    class_names: Sequence[str],
    suspects: Suspects,
    evidence: Evidence,
    *,
    title: str,
    facts: Sequence[str] = (),
    num_found: int | None = None,
    page_dir: str | os.PathLike[str],
) -> str:
    """The suspects with their players, the worst first.

    Args:
        paths: of all n videos.
        labels: int64 (n,), positions among the classes.
        class_names: K of them.
        suspects: those that are shown.
        evidence: about all videos.
        title: of the page.
        facts: lines below it.
        num_found: how many suspects there are; None: those that are shown.
        page_dir: folder that the page will lie in.
    """
    rows = suspects.rows.tolist()
    cards = load_cards([ShownClip(paths[row]) for row in rows], page_dir, with_copies=True)
    near = evidence.neighbors[suspects.rows][:, :NUM_NEIGHBORS]  # (m, k)
    distinct, places = np.unique(near, return_inverse=True)
    stills = load_stills([ShownClip(paths[row]) for row in distinct.tolist()], _STILL_PX)
    pictures = [make_data_uri(encode_jpeg(still)) if still else "" for still in stills]
    places = places.reshape(near.shape)
    combined = evidence.combine()
    shown = []
    for place, (row, card) in enumerate(zip(rows, cards, strict=True)):
        other = int(suspects.suggested[place])
        neighbors = [
            Neighbor(
                label=class_names[labels[neighbor]],
                is_same=bool(labels[neighbor] == labels[row]),
                cosine=float(cosine),
                name=os.path.basename(paths[neighbor]),
                picture=pictures[picture],
                href="" if find_closed([paths[neighbor]]) else make_url(paths[neighbor], page_dir) or "",
            )
            for neighbor, cosine, picture in zip(near[place], evidence.cosines[row], places[place], strict=False)
        ]
        shown.append(
            SuspectCard(
                card,
                label=class_names[labels[row]],
                suggested=class_names[other],
                margin=float(suspects.margins[place]),
                bars=_make_bars(combined[row], int(labels[row]), other, class_names),
                evidence=_describe_evidence(evidence, row, int(labels[row])),
                neighbors=neighbors,
            )
        )
    return render_page(
        "label_errors.html",
        title=title,
        facts=facts,
        suspects=shown,
        num_found=len(suspects) if num_found is None else num_found,
    )


def _make_bars(probabilities: np.ndarray, label: int, suggested: int, class_names: Sequence[str]) -> list[Bar]:
    """The likeliest classes, and the label."""
    likeliest = np.argsort(-probabilities, kind="stable")[:_NUM_BARS].tolist()
    classes = list(dict.fromkeys([suggested, *likeliest, label]))
    classes.sort(key=lambda name: -probabilities[name])
    kinds = {label: "wrong", suggested: "right"}
    values = [float(probabilities[number]) for number in classes]
    return [
        Bar(class_names[number], value, f"{100 * value:.1f} %", kinds.get(number, ""))
        for number, value in zip(classes, values, strict=True)
    ]


def _describe_evidence(evidence: Evidence, row: int, label: int) -> str:
    """How much of either speaks for the label."""
    near, predicted = evidence.neighbor_shares[row, label], evidence.predicted[row, label]
    return f"For the label: {100 * near:.1f} % of the neighbors' votes, {100 * predicted:.1f} % by the classifier."
