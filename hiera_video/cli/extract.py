"""Embed videos on a Ray cluster, with the same config keys and into the same files as ``run_net.py EXTRACT.ENABLE``.

    python tools/extract_ray.py --cfg configs/Kinetics/HIERA_B_16x4.yaml EXTRACT.VIDEOS s3.txt \\
      EXTRACT.CHECKPOINT_FILE_PATH /shared/hiera_base_16x224.pth OUTPUT_DIR /shared/embeddings \\
      --decoders 64 --models 8 --gpus-per-model 1

Ray Data runs the pipeline: actors on CPUs decode, actors on GPUs (or CPUs) embed, this process writes Parquet. Nodes
must see the videos and the weights. Start it again after an interruption and it goes on. `pip install "ray[data]"`.
"""

from __future__ import annotations

import argparse
import sys

from hiera_video.config import load_config
from hiera_video.config import parse_args as parse_config_args
from hiera_video.engine.extraction.ray import extract_on_ray


def parse_args() -> argparse.Namespace:
    """Options of this tool; all other words are config files and KEY VALUE pairs, as for run_net.py."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of the cluster; by default what Ray finds, or a local one")
    parser.add_argument("--decoders", type=int, default=1, help="actors that decode, one CPU core each (1)")
    parser.add_argument("--models", type=int, default=1, help="actors that run the model (1)")
    parser.add_argument("--gpus-per-model", type=float, default=0, help="GPUs of each; 0 runs on a CPU core (0)")
    args, rest = parser.parse_known_args()
    config = parse_config_args(rest, description=__doc__)
    args.cfg = load_config(config.cfg_files, [*config.opts, "TRAIN.ENABLE", "False", "EXTRACT.ENABLE", "True"])
    return args


def main() -> None:
    """Runs the pipeline."""
    try:
        args = parse_args()
        extract_on_ray(
            args.cfg,
            address=args.address,
            num_decoders=args.decoders,
            num_models=args.models,
            gpus_per_model=args.gpus_per_model,
        )
    except ImportError as error:
        sys.exit(f'error: {error}; pip install "ray[data]"')
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
