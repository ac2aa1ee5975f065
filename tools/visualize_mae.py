"""Shows what a pre-trained masked autoencoder makes of a video: original, masked, and reconstructed frames."""

import sys

from hiera_video.cli.visualize_mae import main

if __name__ == "__main__":
    sys.exit(main())
