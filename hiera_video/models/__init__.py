"""The models: Hiera and its weights."""

from hiera_video.models.build import build_model, model_names
from hiera_video.models.hiera import Hiera
from hiera_video.models.weights import LoadReport, load_weights

__all__ = ["Hiera", "LoadReport", "build_model", "load_weights", "model_names"]
