"""Import this before ``pytorchvideo.transforms``: it makes that package importable again.

PyTorchVideo 0.1.5 imports ``torchvision.transforms.functional_tensor``, which torchvision 0.17 renamed to
``_functional_tensor``. The functions behind it are unchanged, so an alias in ``sys.modules`` is all it needs.
"""

import importlib
import sys

_REMOVED = "torchvision.transforms.functional_tensor"
_RENAMED = "torchvision.transforms._functional_tensor"

if _REMOVED not in sys.modules:
    try:
        importlib.import_module(_REMOVED)
    except ModuleNotFoundError:
        sys.modules[_REMOVED] = importlib.import_module(_RENAMED)
