"""The models: Hiera, its pre-training, and their weights."""

from hiera_video.models.build import build_model, model_names
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.hiera import Hiera
from hiera_video.models.hiera_mae import HieraMAE
from hiera_video.models.weights import LoadReport, load_weights

__all__ = ["Hiera", "HieraEncoder", "HieraMAE", "LoadReport", "build_model", "load_weights", "model_names"]
