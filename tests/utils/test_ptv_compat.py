"""PyTorchVideo's transforms can be imported with today's torchvision."""

import subprocess
import sys


def test_pytorchvideo_transforms_import_without_a_warning():
    """In a new process, as this one already has the alias."""
    code = "from hiera_video.utils.ptv_compat import RandAugment; print(RandAugment.__module__)"
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert finished.stdout.strip() == "pytorchvideo.transforms.rand_augment", finished.stderr
