"""From Python: the same rows as those of the job, keywords that editors know, and single queries."""

import inspect
import typing
from dataclasses import replace

import pytest
import torch
from command_words import to_words

import hiera_video as hv
from hiera_video.engine.extraction.embed import embed_query
from hiera_video.streams.clip_reader import ClipReader


@pytest.fixture
def model():
    return hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32), num_classes=5)


def test_embedding_from_python(videos, checkpoint):
    sizes = {"DATA.NUM_FRAMES": 4, "DATA.TEST_CROP_SIZE": 32, "DATA.TRAIN_CROP_SIZE": 32, "HIERA.EMBED_DIM": 8}
    opts = [
        *to_words(sizes),
        "DATA.TRAIN_JITTER_SCALES",
        [36, 40],
        "HIERA.STAGES",
        [1, 1, 1, 1],
        "MODEL.NUM_CLASSES",
        5,
    ]
    paths = [videos / "a.mp4", videos / "sub"]
    settings = {"window_sec": 0.64, "stride_sec": 0.32, "opts": opts, "num_workers": 0}
    found = hv.embed(paths, model="hiera_tiny_16x224", checkpoint=checkpoint, **settings)
    assert found.table["video_id"].unique().tolist() == ["a", "sub/c", "sub/d"]
    model = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32), num_classes=5)
    hv.load_weights(model, checkpoint)
    again = hv.embed(str(videos), model=model, window_sec=0.64, stride_sec=0.32, num_workers=0)
    rows = again.table["video_id"].isin(["a", "sub/c", "sub/d"]).tolist()
    torch.testing.assert_close(again.vectors[rows], found.vectors, atol=1e-5, rtol=0)
    assert model.training
    uniform = hv.embed(videos / "a.mp4", model=model, num_clips=3, num_workers=0)
    assert len(uniform) == 3 and uniform.info["clips"]["kind"] == "uniform clips"


@pytest.mark.parametrize(
    "clips",
    [
        {"window_sec": 2, "window_frames": 16},
        {"window_sec": 2, "stride_frames": 8},
        {"stride_sec": 2, "num_clips": 3},
        {"window_frames": 16, "num_clips": 3},
    ],
    ids=lambda clips: "-".join(clips),
)
def test_clips_that_contradict_each_other_are_refused(videos, checkpoint, clips):
    with pytest.raises(ValueError, match=f"{' and '.join(clips)} contradict each other"):
        hv.embed(videos, checkpoint=checkpoint, **clips)


def test_keywords_are_config_keys(videos, model):
    settings = {"num_crops": 3, "layer": "stage3", "average": "none", "l2_normalize": True, "dtype": "float16"}
    found = hv.embed(videos / "b.mp4", model=model, **settings, precision="bf16", num_workers=0)
    expected = {
        "NUM_CROPS": 3,
        "LAYER": "stage3",
        "AVERAGE": "none",
        "L2_NORMALIZE": True,
        "DTYPE": "float16",
        "PRECISION": "bf16",
        "CLIPS": "windows",
        "WINDOW": 0,
        "UNIT": "sec",
    }
    assert {name: found.info["settings"][f"EXTRACT.{name}"] for name in expected} == expected
    assert len(found) % 3 == 0
    assert found.vectors.float().norm(dim=1).sub(1).abs().max() < 1e-2


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        ({"window_frames": 8}, ("windows", 8, 0, "frames")),
        ({"stride_frames": 4}, ("windows", 0, 4, "frames")),
        ({"window_sec": 0.5, "stride_sec": 0.25}, ("windows", 0.5, 0.25, "sec")),
    ],
    ids=str,
)
def test_windows_have_a_unit(videos, model, clips, expected):
    settings = hv.embed(videos / "b.mp4", model=model, num_workers=0, **clips).info["settings"]
    assert tuple(settings[f"EXTRACT.{name}"] for name in ("CLIPS", "WINDOW", "STRIDE", "UNIT")) == expected


def test_editors_know_the_keywords():
    for function in (hv.embed, hv.predict):
        parameters = inspect.signature(function).parameters.values()
        assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        assert set(typing.get_type_hints(function)) == {*(parameter.name for parameter in parameters), "return"}


def test_wrong_use_from_python_is_explained(videos, checkpoint):
    with pytest.raises(TypeError, match="windw_sec"):
        hv.embed(videos, checkpoint=checkpoint, windw_sec=2)
    with pytest.raises(ValueError, match=r"EXTRACT.AVERAGE.*'sometimes'"):
        hv.embed(videos, checkpoint=checkpoint, average="sometimes")
    with pytest.raises(ValueError, match="checkpoint is missing"):
        hv.embed(videos, model="hiera_tiny_16x224")
    image_model = hv.build_model("hiera_tiny_224")
    with pytest.raises(ValueError, match=r"input_size is \(224, 224\)"):
        hv.embed(videos, model=image_model)


def test_a_query_is_the_mean_of_its_windows(options, videos, run_job, tmp_path):
    run_job(options)
    found = hv.read_embeddings(options["OUTPUT_DIR"])
    rows = (found.table["video_id"] == "a").tolist()
    path = str(videos / "a.mp4")
    torch.testing.assert_close(embed_query(found.info, path), found.vectors[rows].mean(dim=0), atol=1e-5, rtol=0)
    part = embed_query(found.info, path, start_sec=0.3, end_sec=1.0)
    torch.testing.assert_close(
        part, found.vectors[rows][:3].mean(dim=0), atol=1e-5, rtol=0
    )  # more than half of 0 and 2
    other = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32), num_classes=5)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="were made with weights of"):
        embed_query(found.info, path, checkpoint=str(tmp_path / "other.pth"))


def test_a_query_forgets_clips_of_an_attempt_that_was_given_up(options, videos, run_job, monkeypatch):
    run_job(options)
    info, path = hv.read_embeddings(options["OUTPUT_DIR"]).info, str(videos / "a.mp4")
    expected = embed_query(info, path)
    read = ClipReader.read

    def read_with_a_false_start(self, path, *, index=0):
        for number, chunk in enumerate(read(self, path, index=index)):
            if number == 0:
                yield replace(chunk, views=torch.full_like(chunk.views, 200), is_last=False)
            yield replace(chunk, attempt=1)

    monkeypatch.setattr(ClipReader, "read", read_with_a_false_start)
    torch.testing.assert_close(embed_query(info, path), expected)
