"""Video understanding with spatiotemporal Hiera.

import hiera_video as hv
model = hv.build_model("hiera_base_16x224", num_classes=400)
report = hv.load_weights(model, "hiera_base_16x224.pth")
reader = hv.VideoReader("clip.mp4")
embeddings = hv.embed("videos/", model="hiera_base_16x224", checkpoint="hiera_base_16x224.pth")
predictions = hv.predict("clip.mp4", checkpoint="output/checkpoints/checkpoint_best.pyth")
"""

import importlib
import os
from typing import Any

# By default OpenMP's threads wait for each other by spinning, at the price of several times the work itself once
# decoding processes want the same cores. This limits it to some microseconds; it is read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from hiera_video.models.build import build_model, model_names
from hiera_video.models.weights import LoadReport, load_weights
from hiera_video.video import VideoDecodeError, VideoReader

# Jobs are slow to import: only who asks for them pays.
_LAZY = {
    "embed": "hiera_video.engine.extraction.embed",
    "predict": "hiera_video.engine.predict",
    "Embeddings": "hiera_video.embeddings.reading",
    "read_embeddings": "hiera_video.embeddings.reading",
}

__all__ = [
    "Embeddings",
    "LoadReport",
    "VideoDecodeError",
    "VideoReader",
    "build_model",
    "embed",
    "load_weights",
    "model_names",
    "predict",
    "read_embeddings",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
