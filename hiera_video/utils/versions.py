"""Versions of the software that results depend on."""

import platform
from importlib import metadata

import torch

_PACKAGES = ("hiera_video", "torch", "torchvision", "pytorchvideo", "av", "numpy", "scikit-learn")


def get_versions() -> dict[str, str]:
    """Versions of Python, of the packages that results depend on, and the name of the GPU or the processor."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    versions["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU"
    return versions
