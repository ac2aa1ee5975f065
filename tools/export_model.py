"""Exports a trained model to torch.export and ONNX, verified against the model itself."""

import sys

from hiera_video.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
