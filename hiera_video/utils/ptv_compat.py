"""The parts of ``pytorchvideo.transforms`` that we build on; import them from here.

PyTorchVideo 0.1.5 imports ``torchvision.transforms.functional_tensor``, which torchvision 0.17 renamed to
``_functional_tensor``. The functions behind it are unchanged, so an alias in ``sys.modules`` is all it needs. Its use
of TorchScript makes newer torch versions warn on import; users can do nothing about it, so the warning is hidden.
"""

import importlib
import sys
import warnings

_REMOVED = "torchvision.transforms.functional_tensor"
_RENAMED = "torchvision.transforms._functional_tensor"

if _REMOVED not in sys.modules:
    try:
        importlib.import_module(_REMOVED)
    except ModuleNotFoundError:
        sys.modules[_REMOVED] = importlib.import_module(_RENAMED)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from pytorchvideo.transforms.functional import convert_to_one_hot
    from pytorchvideo.transforms.mix import CutMix, MixUp
    from pytorchvideo.transforms.rand_augment import RandAugment

__all__ = ["CutMix", "MixUp", "RandAugment", "convert_to_one_hot"]
