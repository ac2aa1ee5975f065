"""What is written down of a prepared video is there after a kill, and does not count if its file has changed."""

import dataclasses

import pytest
from video_factory import write_video

from hiera_video.preparation.journal import Journal, is_done, remove_unfinished
from hiera_video.preparation.prepare_video import Outcome, Settings, Work, prepare_video
from hiera_video.video.manifest import VideoRecord
from hiera_video.video.reencode import Encoding

SETTINGS = Settings(Encoding(short_side_px=48, key_distance_frames=8, preset="veryfast"))
UNEVEN = [0, 40, 90, 200]


@pytest.fixture
def made(tmp_path):
    """A folder with a journal of two videos, one of uneven times, and a failure."""
    outcomes = []
    with Journal(tmp_path / "out") as journal:
        for name, options in {"a ü": {}, "b": {"pts": UNEVEN, "num_frames": 4}}.items():
            source = write_video(tmp_path / f"{name}.mkv", **options)
            outcomes.append(prepare_video(Work(str(source), str(tmp_path / "out" / f"{name}.mp4")), SETTINGS))
            journal.add(outcomes[-1])
        failure = VideoRecord("crashed", "its process was ended by SIGSEGV")
        outcomes.append(Outcome("c.mkv", str(tmp_path / "out" / "c.mp4"), failure))
        journal.add(outcomes[-1])
    return tmp_path / "out", {outcome.source: outcome for outcome in outcomes}


def test_everything_comes_back(made):
    folder, outcomes = made
    found = Journal(folder).load()
    assert found == outcomes
    assert [is_done(found[source]) for source in outcomes] == [True, True, False] and not is_done(None)


def test_a_torn_line_costs_its_video_alone(made):
    folder, outcomes = made
    path = folder / "prepared.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1]) + lines[1][:100])
    first, second, _ = outcomes
    assert list(Journal(folder).load()) == [first]
    with Journal(folder) as journal:  # goes on behind the torn line
        journal.add(outcomes[second])
    assert list(Journal(folder).load()) == [first, second]


def test_the_last_attempt_counts(made):
    folder, outcomes = made
    later = dataclasses.replace(outcomes["c.mkv"], record=VideoRecord("stuck", "not done after 5 s"))
    with Journal(folder) as journal:
        journal.add(later)
    assert Journal(folder).load()["c.mkv"] == later


def test_files_that_changed_or_went_do_not_count(made):
    folder, outcomes = made
    first, second, _ = outcomes
    (folder / "a ü.mp4").write_bytes(b"other")
    (folder / "b.mp4").unlink()
    assert first not in Journal(folder).load() and second not in Journal(folder).load()


def test_a_folder_may_be_moved(made, tmp_path):
    folder, outcomes = made
    folder.rename(tmp_path / "moved")
    found = Journal(tmp_path / "moved").load()
    assert [is_done(found[source]) for source in outcomes] == [True, True, False]
    assert found[next(iter(outcomes))].target == str(tmp_path / "moved" / "a ü.mp4")


def test_what_killed_processes_leave_is_removed(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".12-34.partial").touch()
    (tmp_path / "sub" / "mine.partial").touch()
    assert remove_unfinished(tmp_path) == 1 and [path.name for path in (tmp_path / "sub").iterdir()] == ["mine.partial"]
