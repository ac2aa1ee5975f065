"""Video understanding with spatiotemporal Hiera.

import hiera_video as hv
model = hv.build_model("hiera_base_16x224", num_classes=400)
report = hv.load_weights(model, "hiera_base_16x224.pth")
reader = hv.VideoReader("clip.mp4")
"""

from hiera_video.data.video import VideoDecodeError, VideoReader
from hiera_video.models.build import build_model, model_names
from hiera_video.models.weights import LoadReport, load_weights

__all__ = ["LoadReport", "VideoDecodeError", "VideoReader", "build_model", "load_weights", "model_names"]
