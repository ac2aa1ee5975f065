"""Makes data ready for training: videos written anew so that clips are cheap to read, with the same lists."""
