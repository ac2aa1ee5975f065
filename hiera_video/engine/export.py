"""Models for use without this package: programs of `torch.export` and ONNX graphs, each verified before it is kept.

A graph takes normalized clips in batches of any size and gives logits or features. The side-car JSON beside it says how
to make such clips, and which weights are in it.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import simplejson
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from hiera_video.config import compute_digest
from hiera_video.engine.multilabel import DEFAULT_THRESHOLD, is_multilabel
from hiera_video.engine.trained import Trained
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.hiera import Hiera
from hiera_video.models.mask_rcnn import HieraDetector
from hiera_video.utils.versions import get_versions

OUTPUTS = ("logits", "features")
FILE_NAMES = {"torch": "model.pt2", "onnx": "model.onnx"}  # format -> file
TOLERANCES = {"fp32": 1e-4, "fp16": 5e-2}  # precision -> how far outputs may be off by default
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_TRACED_BATCH = 2  # a batch of one would be taken for a constant
_MAX_PROTOBUF_BYTES = 2_000_000_000  # weights of a larger ONNX graph lie in a file of their own
_MAX_RUNS, _MAX_TIMING_SEC = 15, 30.0

Runner = Callable[[Tensor], Tensor]


class ExportMismatchError(RuntimeError):
    """An exported graph does not give the model's numbers; it was not kept."""


@dataclass(frozen=True)
class Exported:
    """A file that was written and verified.

    Attributes:
        format: key of `FILE_NAMES`.
        path: of the file; its side-car has ".json" appended.
        max_difference: largest absolute difference to the model's own outputs.
        allowed: how large it might have been.
        max_output: largest absolute output, for comparison.
        output_size: K or D.
        batch_sizes: that were tried; none is the one that was traced.
        clip_ms: time for one clip, median, on the CPU with torch's number of threads.
        eager_ms: the same of the model itself, measured in turns with it.
    """

    format: str
    path: Path
    max_difference: float
    allowed: float
    max_output: float
    output_size: int
    batch_sizes: tuple[int, ...]
    clip_ms: float
    eager_ms: float


class _Graph(nn.Module):
    """What is exported: normalized float32 clips (B, 3, T, H, W) -> float32 (B, K) or (B, D)."""

    def __init__(self, model: HieraEncoder, *, output: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.model: HieraEncoder = model.to(dtype)
        self.output, self.dtype = output, dtype

    def forward(self, video: Tensor) -> Tensor:
        run = self.model.forward_features if self.output == "features" else self.model
        return run(video.to(self.dtype)).float()


@torch.no_grad()
def export_model(
    trained: Trained,
    *,
    output_dir: str | os.PathLike[str],
    output: str = "logits",
    formats: Sequence[str] = tuple(FILE_NAMES),
    precision: str = "fp32",
    tolerance: float | None = None,
    num_clips: int = 4,
) -> list[Exported]:
    """Writes a model as graphs that run without this package, on the CPU or, after loading, elsewhere.

    Each is loaded back and run on random clips, in batches of other sizes than the traced one. Only where it gives the
    numbers of the model itself, in float32, does it get its name in ``output_dir``, and a side-car.

    Args:
        trained: is not changed.
        output_dir: gets `FILE_NAMES`; made where missing.
        output: "logits", or "features": what the classifier sees.
        formats: "torch", "onnx".
        precision: "fp32" or "fp16", of weights and arithmetic; inputs and outputs are float32 all the same.
        tolerance: largest absolute difference to accept, relative to the largest output where that is below 1; None:
            as `TOLERANCES`.
        num_clips: random clips to compare on, at least 3.

    Raises:
        ValueError: an argument out of range, or logits of a model without classifier.
        ImportError: packages for ONNX are missing; says what to install.
        ExportMismatchError: a graph is off by more than the tolerance.
    """
    _check_arguments(trained, output=output, formats=formats, precision=precision, num_clips=num_clips)
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    eager = _Graph(copy.deepcopy(trained.model).cpu(), output=output, dtype=torch.float32)
    lower = precision != "fp32"
    graph = _Graph(copy.deepcopy(eager.model), output=output, dtype=_DTYPES[precision]) if lower else eager
    clips = _draw_clips(trained.cfg, trained.model.input_size, num_clips)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(graph.eval(), (clips[:_TRACED_BATCH].clone(),), dynamic_shapes={"video": {0: batch}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names folders of this machine
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for name in formats:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as partial:
            path = Path(partial) / FILE_NAMES[name]
            _save(program, name, path, output)
            result = _verify(name, path, folder, eager=eager, clips=clips, tolerance=tolerance)
            facts = _describe(trained, result, output=output, precision=precision)
            path.with_name(path.name + ".json").write_text(simplejson.dumps(facts, indent=2) + "\n")
            for file in Path(partial).iterdir():
                os.replace(file, folder / file.name)
        results.append(result)
    return results


def _check_arguments(trained: Trained, *, output: str, formats: Sequence[str], precision: str, num_clips: int) -> None:
    legal = (("output", [output], OUTPUTS), ("formats", formats, FILE_NAMES), ("precision", [precision], TOLERANCES))
    for argument, values, choices in legal:
        for value in values:
            if value not in choices:
                raise ValueError(f"{argument} is {value!r}; legal are {', '.join(map(repr, choices))}")
    if num_clips < 3:
        raise ValueError(f"num_clips is {num_clips}; at least 3 are needed for batches of different sizes")
    if isinstance(trained.model, HieraDetector):
        raise ValueError(
            f"{trained.checkpoint} is a detector, and only classifiers and encoders are exported; `hiera-video extract "
            "... EXTRACT.LAYER stage4` (or map4) gives the features of its encoder"
        )
    if output == "logits" and not isinstance(trained.model, Hiera):
        raise ValueError(
            f"{trained.checkpoint} is of {trained.cfg.MODEL.MODEL_NAME}, which has no classifier of whole clips (TASK "
            f"{trained.cfg.TASK}): export its features"
        )
    missing = [package for package in _ONNX_PACKAGES if importlib.util.find_spec(package) is None]
    if "onnx" in formats and missing:
        raise ImportError(f"export to ONNX needs {', '.join(missing)}: pip install 'hiera_video[export]'")


def _draw_clips(cfg: CfgNode, input_size: Sequence[int], count: int) -> Tensor:
    """Normalized clips (count, 3, T, H, W) of blurred noise: they differ from each other more than white noise does."""
    generator = torch.Generator().manual_seed(0)
    coarse, mode = ((4, 6, 6), "trilinear") if len(input_size) == 3 else ((6, 6), "bilinear")
    noise = torch.rand((count, 3, *coarse), generator=generator)
    pixels = F.interpolate(noise, size=tuple(input_size), mode=mode)  # (count, 3, [T,] H, W)
    mean, std = (torch.tensor(x).view(-1, *[1] * len(input_size)) for x in (cfg.DATA.MEAN, cfg.DATA.STD))
    return (pixels - mean) / std


def _save(program: torch.export.ExportedProgram, name: str, path: Path, output: str) -> None:
    if name == "torch":
        torch.export.save(program, path)
        return
    size_bytes = sum(value.nbytes for value in program.state_dict.values())
    torch.onnx.export(
        program,
        (),
        path,
        input_names=["video"],
        output_names=[output],
        dynamic_shapes=({0: "batch"},),
        external_data=size_bytes > _MAX_PROTOBUF_BYTES,
        dynamo=True,
        verbose=False,
    )


def _load(name: str, path: Path) -> Runner:
    if name == "torch":
        return torch.export.load(path).module()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda video: torch.from_numpy(session.run(None, {"video": video.numpy()})[0])


def _verify(name: str, path: Path, folder: Path, *, eager: Runner, clips: Tensor, tolerance: float) -> Exported:
    """Raises ExportMismatchError where the file does not give the eager model's numbers."""
    runner = _load(name, path)
    batch_sizes = tuple(sorted({1, 3, len(clips)}))
    pairs = [(runner(clips[:size]), eager(clips[:size])) for size in batch_sizes]
    difference = max((got - expected).abs().max().item() for got, expected in pairs)
    largest = max(expected.abs().max().item() for _, expected in pairs)
    allowed = tolerance * min(1.0, largest)
    if not difference <= allowed:  # also where it is not a number
        raise ExportMismatchError(
            f"{path.name} is off by {difference:.3g} from the model on {len(clips)} random clips, with outputs up to "
            f"{largest:.3g}; {allowed:.3g} is allowed (tolerance {tolerance:g}). It was removed"
        )
    clip_ms, eager_ms = _measure_ms([lambda: runner(clips[:1]), lambda: eager(clips[:1])])
    return Exported(
        format=name,
        path=folder / path.name,
        max_difference=difference,
        allowed=allowed,
        max_output=largest,
        output_size=pairs[0][1].shape[1],
        batch_sizes=batch_sizes,
        clip_ms=clip_ms,
        eager_ms=eager_ms,
    )


def _measure_ms(runs: Sequence[Callable[[], Any]]) -> list[float]:
    """Median time of each, in milliseconds, measured in turns."""
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    end = time.perf_counter() + _MAX_TIMING_SEC
    while not times[0] or (len(times[0]) < _MAX_RUNS and time.perf_counter() < end):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            own.append((time.perf_counter() - start) * 1000)
    return [statistics.median(own) for own in times]


def _describe(trained: Trained, result: Exported, *, output: str, precision: str) -> dict[str, Any]:
    """The side-car: what one must know to use the file."""
    data = trained.cfg.DATA
    packages = _ONNX_PACKAGES if result.format == "onnx" else ()
    return {
        "format": {"torch": "torch.export", "onnx": "ONNX"}[result.format],
        "file": result.path.name,
        "input": {
            "name": "video",
            "shape": ["batch", 3, *trained.model.input_size],
            "axes": "batch, RGB, frames, height, width",
            "dtype": "float32",
            "values": "(pixel / 255 - mean) / std",
            "mean": list(data.MEAN),
            "std": list(data.STD),
            "num_frames": data.NUM_FRAMES,
            "sampling": data.SAMPLING,
            "sampling_rate_frames": data.SAMPLING_RATE,
            "target_fps": data.TARGET_FPS,
            "short_side_px": data.TRAIN_JITTER_SCALES[0],
            "crop_size_px": data.TEST_CROP_SIZE,
            "interpolation": data.INTERPOLATION,
        },
        "output": {"name": output, "shape": ["batch", result.output_size], "dtype": "float32"},
        **(_describe_decision(trained) if output == "logits" else {}),
        "class_names": list(trained.class_names) if output == "logits" else [],
        "model": trained.cfg.MODEL.MODEL_NAME,
        "precision": precision,
        "checkpoint": trained.checkpoint,
        "weights_sha256": trained.sha256,
        "config_digest": compute_digest(trained.cfg),
        "verification": {
            "max_difference": result.max_difference,
            "allowed": result.allowed,
            "max_output": result.max_output,
            "batch_sizes": list(result.batch_sizes),
        },
        "versions": get_versions() | {package: metadata.version(package) for package in packages},
    }


def _describe_decision(trained: Trained) -> dict[str, Any]:
    """How logits become probabilities, and from which probability on a clip has a class, where it may have several."""
    if not is_multilabel(trained.cfg):
        return {"activation": "softmax"}
    thresholds = trained.thresholds or [DEFAULT_THRESHOLD] * trained.cfg.MODEL.NUM_CLASSES
    return {"activation": "sigmoid", "thresholds": list(thresholds)}
