import os

import pytest

from hiera_video.utils.files import move_into_place, write_whole


def test_a_file_is_the_old_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.bin"
    write_whole(path, b"old")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["a.bin"], "a part would keep a full disk full"
    monkeypatch.undo()
    write_whole(path, memoryview(b"newer"))
    assert path.read_bytes() == b"newer" and os.listdir(path.parent) == ["a.bin"]


def test_a_complete_file_gets_its_name(tmp_path):
    (tmp_path / "new.partial").write_bytes(b"new")
    (tmp_path / "name").write_bytes(b"old")
    move_into_place(tmp_path / "new.partial", tmp_path / "name")
    assert [path.name for path in tmp_path.iterdir()] == ["name"] and (tmp_path / "name").read_bytes() == b"new"
