"""A data set looked at: what is wrong with its videos and lists."""
