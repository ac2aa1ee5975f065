"""Folders as jobs leave them, made without a job."""

import json

import numpy as np
import torch

from hiera_video.data.lists import VideoList
from hiera_video.engine.evaluate import Predictions, make_confusion_table, make_prediction_table


def make_predictions(labels, predicted, *, num_classes, failed=(), seed=0):
    """Probabilities whose highest is at ``predicted``; random otherwise."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(len(labels), num_classes)))
    logits[range(len(labels)), predicted] = logits.max(dim=1).values + torch.rand(len(labels), dtype=torch.double) + 0.1
    probs = logits.softmax(dim=1).float()
    probs[list(failed)] = float("nan")
    return Predictions(probs, torch.from_numpy(labels), {i: f"video {i} is <b>broken</b>" for i in failed})


def write_run(folder, paths, predictions, *, class_names=None, num_epochs=3, config="", **stats):
    """Writes what a training and a test of classes write."""
    folder.mkdir(parents=True, exist_ok=True)
    videos = VideoList(np.array([str(path) for path in paths]), predictions.labels.numpy(), class_names)
    results = {
        **predictions.compute_accuracy(),
        "num_videos": len(videos),
        "num_failed": len(predictions.failed),
        "failed": [{"path": str(videos.paths[i]), "reason": reason} for i, reason in predictions.failed.items()],
        "versions": {"torch": "1.2"},
    }
    make_prediction_table(videos, predictions).to_parquet(folder / "test_predictions.parquet")
    make_confusion_table(videos, predictions).to_csv(folder / "test_confusion.csv")
    (folder / "test_results.json").write_text(json.dumps(results))
    (folder / "config.yaml").write_text(config or "TASK: classify\nMODEL: {MODEL_NAME: tiny}\nSOLVER: {MAX_EPOCH: 3}\n")
    write_metrics(folder / "metrics.jsonl", num_epochs=num_epochs, **stats)
    return folder


def write_metrics(path, *, num_epochs, **stats):
    """Log lines of a training of four steps an epoch."""
    with open(path, "w") as file:
        for epoch in range(1, num_epochs + 1):
            for step in range(1, 5):
                line = {"_type": "train_iter", "epoch": f"{epoch}/{num_epochs}", "iter": f"{step}/4", "eta": "0:00:01"}
                numbers = {"loss": 3 / (epoch + step / 4), "lr": 0.1, "grad_norm": 2.0, "top1": 10.0 * epoch}
                speed = {"clips_per_sec": 50.0, "step_time_sec": 0.2, "data_time_sec": 0.05}
                file.write(json.dumps({**line, **numbers, **speed, **stats}) + "\n")
            file.write(
                json.dumps({"_type": "val_epoch", "epoch": f"{epoch}/{num_epochs}", "top1": 12.0 * epoch}) + "\n"
            )
        file.write(json.dumps({"_type": "test", "top1": 50.0}) + "\n")
