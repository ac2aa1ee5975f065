"""Runs `hiera-video run` and does some damage in the middle: what the tests of interruptions start.

    python tests/stop_training.py WHAT EPOCH STEP RANK [KEY VALUE ...]

WHAT is a signal's name, which this process sends itself after EPOCH finished epochs and STEP steps, on rank RANK; or
`raise`, which raises an error there; or `raise_in_data`, `raise_in_validation`, `raise_in_checkpoint`.
"""

import os
import signal
import sys

from hiera_video.cli.run import main
from hiera_video.engine import launch
from hiera_video.engine.training import classify, loop
from hiera_video.utils.distributed import get_rank


class Planted(Exception):
    pass


def plant(what, epoch, step, rank):
    state_now = {}
    take_step, compute_validation, make_content = loop.take_step, classify.validate, loop.make_content

    def is_here(state):
        return (state.epoch, state.step) == (epoch, step) and get_rank() == rank

    def damaged_step(run, batches, meters, lr):
        state_now["state"] = run.state
        if what == "raise" and is_here(run.state):
            raise Planted("planted in the model")
        values = take_step(run, batches, meters, lr)
        if what.startswith("SIG") and is_here(run.state):
            os.kill(os.getpid(), getattr(signal, what))
        return values

    def damaged_validation(cfg, loader, state):
        if what == "raise_in_validation" and get_rank() == rank:
            raise Planted("planted in validation")
        return compute_validation(cfg, loader, state)

    def damaged_content(*args, **options):
        if what == "raise_in_checkpoint":
            raise Planted("planted in the checkpoint")
        return make_content(*args, **options)

    def damaged_data(self, batches):
        if what == "raise_in_data" and get_rank() == rank:
            raise Planted("planted in the data")
        return time_data(self, batches)

    time_data = loop.TrainMeters.time_data
    loop.TrainMeters.time_data = damaged_data
    loop.take_step, classify.validate, loop.make_content = damaged_step, damaged_validation, damaged_content


WORDS = sys.argv[1:]
plant(WORDS[0], *map(int, WORDS[1:4]))  # also in processes that are started from this one: they import this file
if __name__ == "__main__":
    if "STOP_TRAINING_PROCESSES" in os.environ:  # as on a machine with so many GPUs
        launch._compute_num_processes = lambda *_: int(os.environ["STOP_TRAINING_PROCESSES"])
    sys.exit(main(WORDS[4:]))
