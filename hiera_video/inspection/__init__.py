"""Inspects a data set: what is wrong with its videos and its lists."""
