"""Which videos a list means; tests/cli/test_probe.py looks at whole runs."""

import pytest

from hiera_video.embeddings.splits import match_paths


def test_paths_match_by_whole_names():
    known = ["/data/a/x.mp4", "/data/b/x.mp4", "/data/b/xx.mp4", "x.mp4", "s3://bucket/y.mp4"]
    wanted = ["a/x.mp4", "/b/xx.mp4", "x.mp4", "bucket/y.mp4", "/else/a/x.mp4", "/data/ab/x.mp4"]
    assert match_paths(wanted, known) == {
        "a/x.mp4": "/data/a/x.mp4",
        "/b/xx.mp4": "/data/b/xx.mp4",
        "x.mp4": "x.mp4",
        "bucket/y.mp4": "s3://bucket/y.mp4",
    }
    with pytest.raises(ValueError, match="'x.mp4' is the end of 2 paths of the embeddings: /data/a/x.mp4, /data/b/x"):
        match_paths(["x.mp4"], known[:3])
