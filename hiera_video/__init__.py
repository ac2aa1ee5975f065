"""Video understanding with spatiotemporal Hiera.

import hiera_video as hv
model = hv.build_model("hiera_base_16x224", num_classes=400)
report = hv.load_weights(model, "hiera_base_16x224.pth")
reader = hv.VideoReader("clip.mp4")
embeddings = hv.embed("videos/", model="hiera_base_16x224", checkpoint="hiera_base_16x224.pth")
predictions = hv.predict("clip.mp4", checkpoint="output/checkpoints/checkpoint_best.pyth")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # type checkers and editors read these lines; at run time `__getattr__` imports what is asked for
    from hiera_video.embeddings.reading import Embeddings, read_embeddings
    from hiera_video.engine.explain import explain
    from hiera_video.engine.extraction.embed import embed
    from hiera_video.engine.predict import predict
    from hiera_video.models.build import build_model, model_names
    from hiera_video.models.released import get_class_names
    from hiera_video.models.weights import LoadReport, load_weights
    from hiera_video.video import VideoDecodeError, VideoReader

# Public name -> its module. Importing the package must stay quick, so torch and the decoders are imported on first use.
_MODULES = {
    "Embeddings": "hiera_video.embeddings.reading",
    "LoadReport": "hiera_video.models.weights",
    "VideoDecodeError": "hiera_video.video",
    "VideoReader": "hiera_video.video",
    "build_model": "hiera_video.models.build",
    "embed": "hiera_video.engine.extraction.embed",
    "explain": "hiera_video.engine.explain",
    "get_class_names": "hiera_video.models.released",
    "load_weights": "hiera_video.models.weights",
    "model_names": "hiera_video.models.build",
    "predict": "hiera_video.engine.predict",
    "read_embeddings": "hiera_video.embeddings.reading",
}

__all__ = [
    "Embeddings",
    "LoadReport",
    "VideoDecodeError",
    "VideoReader",
    "build_model",
    "embed",
    "explain",
    "get_class_names",
    "load_weights",
    "model_names",
    "predict",
    "read_embeddings",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
