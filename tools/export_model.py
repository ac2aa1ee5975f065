"""Exports a trained model to torch.export and ONNX: the same as `hiera-video export`."""

import sys

from hiera_video.cli.main import main

if __name__ == "__main__":  # processes that a job starts import this file once more
    sys.exit(main(["export", *sys.argv[1:]]))
