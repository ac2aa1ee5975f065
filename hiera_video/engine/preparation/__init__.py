"""The job that makes a data set ready for training, on this machine or on a Ray cluster."""
