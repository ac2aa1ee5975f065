"""Requests to stop, tried with the real signals in processes of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hiera_video.utils.interrupt import (
    EXIT_START_AGAIN,
    Interrupted,
    get_stop_reason,
    raise_if_stopped,
    request_stop,
    stop_on_signals,
)

JOB = """
import sys, time
from hiera_video.utils.interrupt import raise_if_stopped, stop_on_signals
with stop_on_signals():
    print("ready", flush=True)
    for step in range(600):
        time.sleep(0.1)
        if sys.argv[1] == "polite":
            raise_if_stopped("1 of 2 steps is kept")
"""


def start(kind):
    process = subprocess.Popen([sys.executable, "-c", JOB, kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_first_signal_asks_and_the_job_ends_when_it_looks(number):
    process = start("polite")
    process.send_signal(number)
    assert process.wait(120) == EXIT_START_AGAIN == 75


def test_a_second_signal_ends_a_job_that_does_not_look():
    process = start("deaf")
    process.send_signal(signal.SIGTERM)
    time.sleep(2.5)  # what comes sooner may be the launcher passing the same request on
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == -signal.SIGTERM


def test_a_message_says_who_asked_what_is_kept_and_how_to_go_on():
    with stop_on_signals():
        raise_if_stopped("nothing")  # nobody has asked
        os.kill(os.getpid(), signal.SIGUSR1)
        assert get_stop_reason() == "SIGUSR1"
        request_stop("another process")  # the first reason stands
        with pytest.raises(Interrupted, match="stopped by SIGUSR1; 3 of 9 videos are scored. Start the same command"):
            raise_if_stopped("3 of 9 videos are scored")


def test_handlers_are_put_back_and_an_old_request_is_forgotten():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        request_stop("a test")
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    with stop_on_signals():
        assert get_stop_reason() == ""


def test_a_forked_child_leaves_requests_to_its_parent_and_dies_when_terminated():
    with stop_on_signals():
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(3)
        try:
            os.kill(child, signal.SIGINT)
            time.sleep(0.3)
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        finally:
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        assert get_stop_reason() == ""
