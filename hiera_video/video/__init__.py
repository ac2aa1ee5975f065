"""Video files: how many frames they have, how fast they run, and exactly the frames that a caller asks for.

Nothing else in the package imports av, decord or torchcodec. `reader` is what the rest of the package uses; `source`
opens files, also remote ones; `index` finds out which frames a file really has; `pyav_backend` and `other_backends`
decode; `frames_backend` reads pictures; `live` reads cameras and streams; `writer` writes a file; `integrity` finds out
whether a file is whole; `manifest` keeps what a check found out; `ptv` plugs our reader into PyTorchVideo's data sets
(import it by name: it is slow to import).
"""

from hiera_video.video.frames_backend import is_series
from hiera_video.video.index import FrameIndex, VideoDecodeError
from hiera_video.video.reader import FramesChangedError, VideoReader, available_backends, describe_backend

__all__ = [
    "FrameIndex",
    "FramesChangedError",
    "VideoDecodeError",
    "VideoReader",
    "available_backends",
    "describe_backend",
    "is_series",
]
