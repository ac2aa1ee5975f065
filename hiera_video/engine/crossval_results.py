"""What a cross-validation has found: each fold, how much they differ, and all clips together."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import simplejson
import torch
from fvcore.common.config import CfgNode

from hiera_video.config import compute_digest
from hiera_video.engine.crossval import Plan, collect_predictions, get_fold_dir
from hiera_video.engine.evaluate import Predictions
from hiera_video.engine.multilabel import is_multilabel
from hiera_video.utils.files import write_whole
from hiera_video.utils.label_metrics import compute_intervals, compute_mean_average_precision
from hiera_video.utils.tables import format_table
from hiera_video.utils.versions import get_versions


def write_results(cfg: CfgNode, plan: Plan) -> dict[str, Any]:
    """Writes ``crossval.json`` and ``crossval_predictions.parquet`` to OUTPUT_DIR when all folds are done.

    Returns:
        The content of ``crossval.json``. ``folds`` has a row for each fold, ``mean`` and ``std`` are over the folds
        (the standard deviation with F - 1), and ``pooled`` is of all clips together, each as its fold predicted it,
        with 95 % intervals.
    """
    table = collect_predictions(cfg, plan)
    names = ("map", "f1_micro", "f1_macro") if is_multilabel(cfg) else ("top1", "top5", "mean_class_accuracy")
    folds = [_describe_fold(cfg, plan, fold, names) for fold in range(plan.num_folds)]
    values = pd.DataFrame(folds)[list(names)]
    results: dict[str, Any] = {
        "num_folds": plan.num_folds,
        "num_clips": len(plan.videos),
        "num_groups": plan.num_groups,
        "num_failed": int((table["failure"] != "").sum()),
        "folds": folds,
        "mean": values.mean().to_dict(),
        "std": values.std(ddof=1).to_dict(),
        "pooled": pool(plan, table),
        "config_digest": compute_digest(cfg),
        "versions": get_versions(),
    }
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    write_whole(Path(cfg.OUTPUT_DIR) / "crossval_predictions.parquet", buffer.getvalue())
    text = simplejson.dumps(results, indent=2, ignore_nan=True)
    write_whole(Path(cfg.OUTPUT_DIR) / "crossval.json", (text + "\n").encode())
    return results


def _describe_fold(cfg: CfgNode, plan: Plan, fold: int, names: tuple[str, ...]) -> dict[str, Any]:
    folder = get_fold_dir(cfg.OUTPUT_DIR, fold)
    found = simplejson.loads((folder / "test_results.json").read_text())
    counts = {f"num_{split}": int(chosen.sum()) for split, chosen in plan.get_parts(fold).items()}
    interval = f"{names[0]}_interval"
    # A fold none of whose clips has a class has no mAP: null in its file.
    numbers = {name: math.nan if found[name] is None else found[name] for name in names}
    numbers[interval] = [math.nan if end is None else end for end in found[interval]]
    others = {name: found[name] for name in ("num_failed", "checkpoint")}
    return {"fold": fold + 1, **counts, **numbers, **others, "output_dir": str(folder)}


def pool(plan: Plan, table: pd.DataFrame) -> dict[str, Any]:
    """Percentages over all clips, with 95 % intervals.

    Several classes a clip: ``map``, which ranks probabilities of different folds' models among each other.

    Args:
        table: of `collect_predictions`.
    """
    probs = np.stack(table["probs"].tolist())  # (n, K)
    sets = plan.videos.label_sets
    if sets is not None:
        targets = sets.make_targets().numpy()
        scores = probs.astype(np.float64)
        return {
            "map": compute_mean_average_precision(scores, targets),
            "map_interval": np.asarray(compute_intervals(scores, targets)[0]).tolist(),
        }
    failed = {i: reason for i, reason in enumerate(table["failure"]) if reason}
    labels = torch.from_numpy(np.array(plan.videos.labels))
    return Predictions(torch.from_numpy(probs), labels, failed).compute_accuracy()


def format_results(results: dict[str, Any]) -> str:
    """The results for people."""
    name, title = ("map", "mAP") if "map" in results["mean"] else ("top1", "top-1")
    rows: list[tuple[str, ...]] = [("fold", "training", "validation", "test", title, "95 % interval")]
    for fold in results["folds"]:
        counts = (str(fold[f"num_{split}"]) for split in ("train", "val", "test"))
        rows.append((str(fold["fold"]), *counts, f"{fold[name]:.2f}", _format_interval(fold[f"{name}_interval"])))
    pooled = results["pooled"]
    total = ("all clips", "", "", str(results["num_clips"]), f"{pooled[name]:.2f}")
    rows.append((*total, _format_interval(pooled[f"{name}_interval"])))
    lines = [
        format_table(rows, "<>>>>>"),
        "",
        f"over {results['num_folds']} folds: mean {results['mean'][name]:.2f} %, standard deviation "
        f"{results['std'][name]:.2f}",
    ]
    if results["num_groups"]:
        lines.append(f"{results['num_groups']} groups, none of them on both sides of a fold")
    if results["num_failed"]:
        lines.append(f"{results['num_failed']} clips could not be decoded, and count as wrong")
    return "\n".join(lines)


def _format_interval(interval: list[float]) -> str:
    return f"[{interval[0]:.1f}, {interval[1]:.1f}]"
