"""Names what happens in a video, window by window, and in the whole."""

import sys

from hiera_video.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
