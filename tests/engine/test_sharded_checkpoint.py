"""Checkpoints that are folders of pieces, in a group of one process; `training/test_divide.py` has more processes."""

import json
import pickle
import resource
import signal

import pytest
import torch
import torch.distributed as dist

from hiera_video.engine import sharded_checkpoint
from hiera_video.engine.checkpoint import (
    CheckpointWriter,
    compute_digest,
    find_last_checkpoint,
    get_checkpoint_path,
    get_validation_record_path,
    list_checkpoints,
    remove_old_checkpoints,
)
from hiera_video.engine.sharded_checkpoint import (
    check_shared_folder,
    join_checkpoint,
    read_pieces,
    save_sharded_checkpoint,
    save_together,
)
from hiera_video.engine.trained import compute_file_sha256, load_thresholds
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.models.sharded_file import check_files


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield dist.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture
def make_content(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    def divide(tensor):
        return distribute_tensor(tensor, mesh, [Shard(0)])

    def make(epoch=1):
        weight = torch.arange(12.0).view(4, 3) + epoch
        moments = {"step": torch.tensor(float(epoch)), "exp_avg": divide(weight * 2)}
        return {
            "model_state": {"blocks.0.norm1.weight": divide(weight), "buffer": torch.full((2,), 7.0)},
            "optimizer_state": {"state": {0: moments}, "param_groups": [{"names": ["blocks.0.norm1.weight"]}]},
            "scaler_state": {},
            "best_score": 1.5,
            "epoch": epoch,
            "cfg": "TASK: classify\n",
            "class_names": ["a"],
            "tokens_grid": [1, 2, 3],
        }

    return make


def place(folder, *progress):
    return get_checkpoint_path(folder, *progress, suffix=".dcp")


def test_what_is_written_is_read_whole_and_in_pieces(make_content, tmp_path):
    path = place(tmp_path, 1)
    content = make_content()
    save_sharded_checkpoint(path, content)
    assert list_checkpoints(tmp_path) == [path] and find_last_checkpoint(tmp_path) == path
    assert not list(path.parent.glob("*.partial"))
    weight = content["model_state"]["blocks.0.norm1.weight"]
    for given in (path, path / "content.pth"):
        file = read_checkpoint_file(given)
        assert (file.kind, file.epoch, file.class_names, file.tokens_grid) == ("training", 1, ("a",), (1, 2, 3))
        assert torch.equal(file.weights["blocks.0.norm1.weight"], weight.full_tensor())
        assert file.training["optimizer_state"]["state"][0]["exp_avg"].is_meta, "only what was asked for is read"
    whole = read_checkpoint_file(path, part="all")
    assert torch.equal(whole.training["optimizer_state"]["state"][0]["exp_avg"], 2 * weight.full_tensor())
    assert read_checkpoint_file(path, part="none").weights["blocks.0.norm1.weight"].shape == (4, 3)
    piece = torch.zeros_like(weight)
    read_pieces(path, {"model_state.blocks.0.norm1.weight": piece})
    assert torch.equal(piece.full_tensor(), weight.full_tensor())
    with pytest.raises(ValueError, match="cannot be read by all processes"):
        read_pieces(path, {"model_state.other": piece})


def test_what_validation_found_is_beside_the_folder(make_content, tmp_path):
    save_sharded_checkpoint(place(tmp_path, 1), {**make_content(), "saved_at_ns": 7})
    record = {"saved_at_ns": 7, "thresholds": [0.25]}
    get_validation_record_path(place(tmp_path, 1)).write_text(json.dumps(record))
    assert load_thresholds(read_checkpoint_file(place(tmp_path, 1))) == [0.25]


def test_one_file_holds_what_the_folder_does(make_content, tmp_path):
    save_sharded_checkpoint(place(tmp_path, 1), make_content())
    digest = join_checkpoint(str(place(tmp_path, 1)), tmp_path / "one.pyth")
    one = read_checkpoint_file(tmp_path / "one.pyth")
    expected = make_content()
    expected["model_state"]["blocks.0.norm1.weight"] = torch.arange(12.0).view(4, 3) + 1
    expected["optimizer_state"]["state"][0]["exp_avg"] = 2 * (torch.arange(12.0).view(4, 3) + 1)
    assert digest == compute_digest(expected) == one.training["digest"]
    assert (one.config, one.class_names, one.tokens_grid) == ("TASK: classify\n", ("a",), (1, 2, 3))
    torch.save({"w": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights.pth is no checkpoint of a training job"):
        join_checkpoint(str(tmp_path / "weights.pth"), tmp_path / "two.pyth")


def test_damage_is_found(make_content, tmp_path):
    path = place(tmp_path, 1)
    save_sharded_checkpoint(path, make_content())
    before = compute_file_sha256(str(path))
    check_files(path / "content.pth")
    piece = next(path.glob("*.distcp"))
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 1
    piece.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path} has changed since it was written: {piece.name}"):
        check_files(path / "content.pth")
    piece.unlink()
    with pytest.raises(ValueError, match="is not whole: __0_0.distcp is not there"):
        check_files(path / "content.pth")
    with pytest.raises(ValueError, match="is no checkpoint, or none that can be read safely"):
        read_checkpoint_file(path)
    save_sharded_checkpoint(path, make_content(2))  # in the place of the damaged one
    assert compute_file_sha256(str(path)) != before and read_checkpoint_file(path).epoch == 2


def test_nothing_in_a_folder_is_run(make_content, tmp_path):
    class Runs:
        def __reduce__(self):
            return open, (str(tmp_path / "was run"), "w")

    path = place(tmp_path, 1)
    save_sharded_checkpoint(path, make_content())
    (path / ".metadata").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(ValueError, match="open is nothing that belongs into .metadata"):
        read_checkpoint_file(path)
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("stop", [False, True])
def test_one_that_cannot_be_written_leaves_the_one_before(make_content, tmp_path, monkeypatch, caplog, stop):
    save_sharded_checkpoint(place(tmp_path, 1), make_content())

    def write(partial, pieces):
        (partial / "__0_0.distcp").write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(sharded_checkpoint, "_write_pieces", write)
    with CheckpointWriter(tmp_path, keep_last=1, stop_on_failure=stop) as writer:
        if stop:
            with pytest.raises(OSError, match="no space left"):
                save_together(writer, place(tmp_path, 2), make_content(2))
        else:
            save_together(writer, place(tmp_path, 2), make_content(2))
            with pytest.raises(OSError, match="no space left"):
                save_together(writer, place(tmp_path, 2), make_content(2), must_succeed=True)
        monkeypatch.undo()
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint_epoch_00001.dcp"]
        (tmp_path / "checkpoints" / "checkpoint_epoch_00009.dcp.partial").mkdir()  # of a job that was killed
        save_together(writer, place(tmp_path, 2), make_content(2))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint_epoch_00002.dcp"]


def test_an_error_of_the_main_process_alone_is_told_to_all(make_content, tmp_path, monkeypatch):
    told, gather = [], sharded_checkpoint.all_gather_objects
    monkeypatch.setattr(sharded_checkpoint, "all_gather_objects", lambda value: told.append(value) or gather(value))
    (tmp_path / "file").touch()
    with CheckpointWriter(tmp_path, keep_last=1, stop_on_failure=True) as writer:
        writer.save(tmp_path / "file" / "checkpoint_best.pyth", {"epoch": 1})  # a file is no folder
        with pytest.raises(OSError, match="file"):
            save_together(writer, place(tmp_path, 1), make_content())
    assert len(told) == 1 and "file" in told[0][0] and not (tmp_path / "checkpoints").exists()


def test_a_full_disk_is_an_error_of_the_checkpoint(make_content, tmp_path):
    """No file may grow beyond 1 kB: torch.distributed.checkpoint says so by what is no Exception of Python's."""
    path = place(tmp_path, 1)
    path.parent.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="cannot write .*00001.dcp.partial: rank 0: "):
            save_sharded_checkpoint(path, make_content())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(path.parent.iterdir())


def test_folders_that_are_not_shared_are_found_before_training(mesh, tmp_path, monkeypatch):
    check_shared_folder(tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())
    monkeypatch.setattr(sharded_checkpoint, "_make_folder", lambda partial: partial.with_name("elsewhere").mkdir())
    with pytest.raises(OSError, match="is not there for rank 0: with TRAIN.SHARDING OUTPUT_DIR must lie on a disk"):
        check_shared_folder(tmp_path)


def test_folders_and_files_count_alike_when_old_ones_go(tmp_path):
    folder = tmp_path / "checkpoints"
    for name in ("00001.pyth", "00002.dcp", "00003.pyth", "00004.dcp"):
        path = folder / f"checkpoint_epoch_{name}"
        folder.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("dcp") else path.touch()
    (folder / "checkpoint_epoch_00000.dcp.removed").mkdir()
    remove_old_checkpoints(tmp_path, keep_last=2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint_epoch_00003.pyth",
        "checkpoint_epoch_00004.dcp",
    ]
