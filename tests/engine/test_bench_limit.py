"""Which part limits a job, from numbers set by hand."""

import pytest

from hiera_video.engine.bench_limit import find_limit


def make_result(**changes):
    values = {"device": "cuda", "train": 30.0, "per_core": 3.0, "loader": 12.0, "together": 11.5, "cores": 4}
    values |= {
        "workers": 4,
        "precision": "fp32",
        "is_compiled": False,
        "load": 0.1,
        "sampled": 9,
        "bad": 0,
        "steps": 20,
        **changes,
    }

    def rate(name, value):
        return {name: value, f"spread_{name}": [value * 0.95, value * 1.05]}

    return {
        "machine": {"load_before": values["load"], "cores": values["cores"]},
        "model": rate("clips_per_sec_train", values["train"])
        | {"device": values["device"], "num_threads": 2}
        | {"precision": values["precision"], "is_compiled": values["is_compiled"]},
        "data": rate("clips_per_sec", values["loader"])
        | rate("clips_per_sec_per_core", values["per_core"])
        | {"cores": values["cores"], "num_workers": values["workers"]}
        | {"num_videos": 100, "num_videos_sampled": values["sampled"], "num_bad": values["bad"]}
        | {"steps_per_epoch": values["steps"]},
        "both": rate("clips_per_sec", values["together"]),
    }


@pytest.mark.parametrize(
    ("changes", "limit", "advice"),
    [
        # 30 clips/s at 3 a core want 10 cores, of which 4 are there.
        (
            {},
            "data",
            "they come at 12.0 of the 30.0 clips/s that the model takes; 6 more cores, or videos that are cheap",
        ),
        ({"cores": 9}, "data", "; 1 more core, or videos"),
        ({"cores": 16}, "data", r"; DATA_LOADER.NUM_WORKERS 10 \(now 4; there are 16 cores\)"),
        (
            {"cores": 16, "workers": 12},
            "data",
            "; 10 cores at 3.0 clips/s would do, and 12 processes do not: they wait",
        ),
        (
            {"loader": 45.0},
            "model",
            "30.0 clips/s, where .* up to 45.0; to try: TRAIN.PRECISION bf16, MODEL.COMPILE True$",
        ),
        ({"loader": 45.0, "precision": "bf16", "is_compiled": True}, "model", "where the data come at up to 45.0$"),
    ],
)
def test_beside_a_gpu_the_slower_part_sets_the_pace(changes, limit, advice):
    found = find_limit(make_result(**changes))
    assert found["limit"] == limit
    with pytest.raises(ValueError, match=advice):
        raise ValueError(found["advice"])


def test_without_a_gpu_what_takes_more_of_the_cores_sets_the_pace():
    # 2 threads at 30 clips/s: 66.7 ms of a core; decoding at 3 and at 50 clips/s: 333.3 and 20 ms.
    found = find_limit(make_result(device="cpu"))
    assert found["limit"] == "data" and "66.7 ms of a core to train on and 333.3 ms to decode" in found["advice"]
    found = find_limit(make_result(device="cpu", per_core=50.0))
    assert found["limit"] == "model" and "A GPU would help" in found["advice"]


def test_notes_say_what_weakens_the_numbers():
    assert find_limit(make_result())["notes"] == []
    notes = " ".join(find_limit(make_result(load=3.0, sampled=100, bad=2, together=5.0, steps=3))["notes"])
    assert "3.0 processes were at work on 4 cores" in notes and "all 100 videos were read" in notes
    assert "an epoch has 3 steps, and at the end of each" in notes
    assert "2 videos could not be decoded" in notes and "together they reach 5.0 clips/s" in notes
    result = make_result()
    result["both"]["spread_clips_per_sec"] = [5.0, 20.0]
    assert find_limit(result)["notes"] == ["both.clips_per_sec varied from 5.0 to 20.0: measure longer, by --seconds"]


def test_without_data_there_is_no_limit():
    found = find_limit(make_result() | {"data": None, "both": None})
    assert found["limit"] is None and "on made clips" in found["advice"] and found["notes"] == []
