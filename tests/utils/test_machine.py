"""What reports of problems say about the machine."""

import os
import subprocess
import sys
from types import SimpleNamespace

import torch

from hiera_video.utils import machine
from hiera_video.utils.machine import count_cores, describe_machine


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    assert 1 <= count_cores() <= os.cpu_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5}, raising=False)
    assert count_cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert count_cores() == os.cpu_count()


def test_the_processor_is_named(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : Some CPU @ 2 GHz\nprocessor : 1\n")
    monkeypatch.setattr(machine, "_CPU_INFO", str(tmp_path / "cpuinfo"))
    assert describe_machine()["cpu"] == f"Some CPU @ 2 GHz, {count_cores()} cores"
    (tmp_path / "cpuinfo").write_text("")  # as on many ARM processors
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert describe_machine()["cpu"].startswith("aarch64, ")


def test_equal_gpus_are_counted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert describe_machine()["gpu"] == "none"
    names = ["H200", "T4", "H200"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(name=names[i], total_memory=16 * 2**30)
    )
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert describe_machine()["gpu"] == "2 x H200, 16 GiB; 1 x T4, 16 GiB; CUDA 12.8"


def test_commands_can_count_cores_without_torch():
    code = "import sys; import hiera_video.utils.machine; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
