"""Where a step's time goes: traces written by hand, and those of real jobs."""

from pathlib import Path

import pytest

from hiera_video.engine.launch import launch
from hiera_video.engine.training.classify import train
from hiera_video.engine.training.detect import train_detector
from hiera_video.engine.training.pretrain import pretrain
from hiera_video.engine.training.profile import PARTS, compute_times, compute_union, format_times, read_trace

PRETRAIN = {
    "TASK": "pretrain",
    "MODEL.MODEL_NAME": "mae_hiera_tiny_16x224",
    "MAE.DECODER_EMBED_DIM": 16,
    "MAE.DECODER_DEPTH": 1,
    "MAE.DECODER_NUM_HEADS": 2,
    "MAE.MASK_RATIO": 0.5,
}


def make_event(name, start, end, cat="user_annotation", **args):
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": end - start, "args": args}


# Two steps of 1 s and 1.4 s; times in microseconds.
STEPS = [make_event("ProfilerStep#1", 0, 1_000_000), make_event("ProfilerStep#2", 1_000_000, 2_400_000)]
RANGES = [
    make_event("data", 0, 100_000),
    make_event("forward", 100_000, 500_000),
    make_event("copy", 150_000, 200_000),  # within the forward pass, which it does not count for
    make_event("backward", 500_000, 800_000),
    make_event("wait", 800_000, 850_000),
    make_event("optimizer", 850_000, 950_000),
    make_event("data", 1_000_000, 1_500_000),
    make_event("forward", 1_500_000, 1_900_000),
    make_event("backward", 1_900_000, 2_300_000),
    make_event("optimizer", 2_300_000, 2_350_000),
    make_event("optimizer", 2_350_000, 2_400_000),
    make_event("forward", 2_400_000, 9_000_000),  # of a step that is not recorded
    make_event("Optimizer.step#AdamW.step", 860_000, 940_000),
    {"ph": "i", "name": "forward", "ts": 5},
]


def test_parts_of_a_trace_by_hand():
    times = compute_times([*STEPS, *RANGES])
    assert times.num_steps == 2 and times.step_sec == pytest.approx(1.2)
    expected = {"data": 0.3, "copy": 0.025, "forward": 0.375, "backward": 0.35, "wait": 0.025, "optimizer": 0.1}
    expected["other"] = 0.025
    assert {name: times.parts[name].host_sec for name in expected} == pytest.approx(expected)
    assert sum(expected.values()) == pytest.approx(times.step_sec)
    assert times.parts["communication"].host_sec is None
    assert all(part.device_sec is None for part in times.parts.values())
    text = format_times(times)
    assert "data" in text and "0.3000 s" in text and "25.0%" in text and "GPU" not in text


def test_gloo_works_beside_the_other_parts():
    gloo = [
        make_event("gloo:all_reduce", 600_000, 900_000),
        make_event("gloo:all_reduce", 700_000, 1_000_000),  # of another thread
        make_event("gloo:all_gather", 2_000_000, 2_200_000),
    ]
    times = compute_times([*STEPS, *RANGES, *gloo])
    assert times.parts["communication"].host_sec == pytest.approx(0.3)
    assert times.parts["backward"].host_sec == pytest.approx(0.35), "as without it"


def test_what_a_gpu_does_belongs_to_the_part_that_asked_for_it():
    asked = [(1, 160_000), (2, 210_000), (3, 510_000), (4, 520_000), (5, 870_000), (6, 970_000), (7, 1_510_000)]
    launches = [make_event("cudaLaunchKernel", at, at + 5, cat="cuda_runtime", correlation=n) for n, at in asked]
    done = [
        make_event("Memcpy HtoD", 170_000, 180_000, cat="gpu_memcpy", correlation=1),
        make_event("gemm", 300_000, 600_000, cat="kernel", correlation=2),  # goes on while backward is asked for
        make_event("gemm", 600_000, 840_000, cat="kernel", correlation=3),
        make_event("ncclDevKernel_AllReduce_Sum_f32", 700_000, 900_000, cat="kernel", correlation=4),
        make_event("adam", 900_000, 990_000, cat="kernel", correlation=5),
        make_event("something", 990_000, 1_000_000, cat="kernel", correlation=6),
        make_event("gemm", 1_600_000, 1_700_000, cat="kernel", correlation=7),
        make_event("gemm", 1_650_000, 1_750_000, cat="kernel", correlation=7),  # of another stream
        make_event("forward", 300_000, 600_000, cat="gpu_user_annotation"),
    ]
    times = compute_times([*STEPS, *RANGES, *launches, *done])
    expected = {"copy": 0.005, "forward": 0.225, "backward": 0.12, "communication": 0.1, "optimizer": 0.045}
    expected |= {"other": 0.005, "data": 0.0, "wait": 0.0}
    assert {name: part.device_sec for name, part in times.parts.items()} == pytest.approx(expected)
    assert times.parts["forward"].host_sec == pytest.approx(0.375)
    assert "on the GPU" in format_times(times)


def test_a_trace_without_steps_is_refused():
    with pytest.raises(ValueError, match="no event is called ProfilerStep#N"):
        compute_times(RANGES)


def test_overlapping_spans_count_once():
    assert compute_union([]) == 0.0
    assert compute_union([(5, 6), (0, 2), (1, 3), (1, 2), (3, 4)]) == 5


def get_profile(cfg):
    return Path(cfg.OUTPUT_DIR) / "profile"


@pytest.mark.parametrize(("job", "changes"), [(train, {}), (pretrain, PRETRAIN)], ids=["classify", "pretrain"])
def test_a_job_writes_a_trace_and_a_table(make_cfg, job, changes):
    """Over the end of an epoch: three steps in each."""
    cfg = make_cfg({**changes, "TRAIN.PROFILE_STEPS": 2, "TRAIN.EVAL_PERIOD": 0, "TRAIN.GRAD_ACCUM_STEPS": 2})
    launch([job], cfg)
    assert sorted(path.name for path in get_profile(cfg).iterdir()) == ["rank_0.json.gz", "rank_0.txt"]
    events = read_trace(get_profile(cfg) / "rank_0.json.gz")
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    counts = {name: names.count(name) for name in PARTS}
    # Gradients are clipped and weights updated in two ranges, around the wait for the device's values.
    assert counts == {"data": 2, "copy": 4, "forward": 4, "backward": 4, "wait": 2, "optimizer": 4} | dict.fromkeys(
        ("other", "communication"), 0
    )
    times = compute_times(events)
    assert times.num_steps == 2
    assert sum(part.host_sec or 0 for part in times.parts.values()) == pytest.approx(times.step_sec)
    assert all(times.parts[name].host_sec > 0 for name in PARTS if name != "communication")
    text = (get_profile(cfg) / "rank_0.txt").read_text()
    assert text == format_times(times) + "\n"
    assert text in (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()


def test_a_detector_is_profiled_too(make_detection_cfg):
    cfg = make_detection_cfg({"TRAIN.PROFILE_STEPS": 1, "TRAIN.EVAL_PERIOD": 0})
    launch([train_detector], cfg)
    times = compute_times(read_trace(get_profile(cfg) / "rank_0.json.gz"))
    assert times.num_steps == 1 and times.parts["copy"].host_sec > 0 and times.parts["backward"].host_sec > 0


def test_the_weights_are_those_of_a_job_without_a_profile(make_cfg, tmp_path):
    from hiera_video.engine.checkpoint import find_last_checkpoint
    from hiera_video.models.checkpoint_file import read_checkpoint_file

    digests = []
    for num_steps in (0, 1):
        cfg = make_cfg({"TRAIN.PROFILE_STEPS": num_steps, "OUTPUT_DIR": tmp_path / str(num_steps)})
        launch([train], cfg)
        digests.append(read_checkpoint_file(find_last_checkpoint(cfg.OUTPUT_DIR)).training["digest"])
        assert get_profile(cfg).exists() == bool(num_steps)
    assert digests[0] == digests[1]


def test_a_job_that_ends_too_soon_says_so(make_cfg):
    cfg = make_cfg({"TRAIN.PROFILE_STEPS": 9})
    launch([train], cfg)
    assert not get_profile(cfg).exists()
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert "TRAIN.PROFILE_STEPS = 9: no trace; the job ended after 6 steps, and the first 3 are not recorded" in log


@pytest.mark.slow
def test_two_processes_write_their_communication(run_net, tmp_path):
    out = tmp_path / "out"
    finished = run_net({"TRAIN.PROFILE_STEPS": 2, "TRAIN.EVAL_PERIOD": 0, "OUTPUT_DIR": out}, processes=2)
    assert finished.returncode == 0, finished.stderr
    for rank in range(2):
        events = read_trace(out / "profile" / f"rank_{rank}.json.gz")
        assert any(event["name"] == "gloo:all_reduce" for event in events)
        assert compute_times(events).parts["communication"].host_sec > 0
        assert "communication" in (out / "profile" / f"rank_{rank}.txt").read_text()
