"""An index on disk against exact search among the same rows, and what it does when the folder changes."""

import numpy as np
import pytest
import simplejson
import torch
from vector_factory import draw_clusters, draw_folder

from hiera_video.embeddings import disk_index
from hiera_video.embeddings.disk_index import FLOAT16, INT8, PQ, open_index, plan_index
from hiera_video.embeddings.search import search_exact
from hiera_video.embeddings.shard_rows import ShardRows

faiss = pytest.importorskip("faiss")
GIB = 2**30


@pytest.fixture
def folder(tmp_path):
    return draw_folder(tmp_path, draw_clusters(3000), num_shards=5)


def read_all(folder):
    return torch.cat([block for _, block in ShardRows(folder).iterate_vectors(1000)])


def count_reads(monkeypatch):
    """(rows of each block that was read, rows that were read one by one)."""
    blocks, singles = [], []
    iterate, read = ShardRows.iterate_vectors, ShardRows.read_vectors

    def count_blocks(self, *args, **options):
        for start, block in iterate(self, *args, **options):
            blocks.append(len(block))
            yield start, block

    def count_singles(self, rows):
        singles.append(len(rows))
        return read(self, rows)

    monkeypatch.setattr(ShardRows, "iterate_vectors", count_blocks)
    monkeypatch.setattr(ShardRows, "read_vectors", count_singles)
    return blocks, singles


def test_codes_get_shorter_as_memory_does():
    plans = [plan_index(20_000_000, 768, int(memory * GIB)) for memory in (130, 65, 20, 12, 4)]
    assert [(plan.coding, plan.code_bytes) for plan in plans] == [
        (FLOAT16, 1536),
        (INT8, 768),
        (PQ, 192),
        (PQ, 96),
        (PQ, 96),
    ]
    assert [plan.part_rows < 20_000_000 for plan in plans] == [False, False, False, False, True]
    for plan, memory in zip(plans, (130, 65, 20, 12, 4), strict=True):
        codes = plan.part_rows * (plan.code_bytes + 8)
        training = plan.num_training * 768 * 4
        block = plan.block_rows * 768 * 4
        assert 2 * codes + training + 4 * block < memory * GIB, "lists that grow take up to twice their content"
        assert plan.num_lists * 39 <= plan.num_training and 8 <= plan.num_probes <= plan.num_lists


def test_too_little_memory_is_refused(folder):
    with pytest.raises(ValueError, match=r"0\.06 GB of memory are left.*--memory-gb"):
        open_index(folder, memory_bytes=2**26)
    assert not (folder / disk_index.FOLDER).exists()


def test_it_finds_what_exact_search_does(folder):
    index = open_index(folder, memory_bytes=GIB)
    vectors = read_all(folder)
    found, exact = index.search(vectors[:50], 10), search_exact(vectors[:50], vectors, 10)
    is_same = found.rows == exact.rows
    assert is_same.float().mean() > 0.9
    assert torch.equal(found.scores[is_same], exact.scores[is_same]), "they are those of the rows themselves"
    assert (found.scores.diff(dim=1) <= 0).all()


def test_the_recall_is_that_of_a_plain_count(folder, monkeypatch):
    monkeypatch.setattr(disk_index, "_MIN_PROBES", 1)
    index = open_index(folder, memory_bytes=GIB)
    vectors = read_all(folder)
    told = index.measure_recall(num_queries=40, k=5)
    own = disk_index._spread_rows(3000, 40, seed=1)
    found, exact = index.search(vectors[own], 6), search_exact(vectors[own], vectors, 6)
    shares = [
        len(set(f) & set(e) - {o}) / 5 for f, e, o in zip(found.rows.tolist(), exact.rows.tolist(), own, strict=True)
    ]
    assert told == {"recall": pytest.approx(np.mean(shares), abs=1e-6), "recall_at": 5, "recall_queries": 40}
    assert 0.2 < told["recall"] < 0.999, "a few lists do not hold everything"
    assert index.content["recall_at"] == 10 and index.content["recall_queries"] == 100


def test_the_saved_index_is_used_again_without_reading_all_rows(folder, monkeypatch):
    first = open_index(folder, memory_bytes=GIB)
    blocks, singles = count_reads(monkeypatch)
    again = open_index(folder, memory_bytes=GIB)
    query = read_all(folder)[7:8]
    blocks.clear()
    assert torch.equal(again.search(query, 5).rows, first.search(query, 5).rows)
    assert again.content == first.content and not blocks and sum(singles) <= 2 * 100, "only the candidates' rows"


def test_rows_are_read_in_blocks_that_fit(folder, monkeypatch):
    blocks, singles = count_reads(monkeypatch)
    plan = plan_index(3000, 32, 2**27)
    open_index(folder, memory_bytes=2**27)
    assert max(blocks) <= plan.block_rows and max(singles) <= max(plan.num_training, 100 * 110)
    assert sum(blocks) == 2 * 3000, "once to add them, once to measure the recall"


def test_lists_that_do_not_fit_lie_on_disk(folder, monkeypatch):
    inside = open_index(folder, memory_bytes=GIB)
    query = read_all(folder)[:20]
    expected = inside.search(query, 5)
    (folder / disk_index.FOLDER / disk_index.SIDE_CAR).unlink()
    added = []
    plan = plan_index

    def plan_small(*args):
        made = plan(*args)
        return disk_index.IndexPlan(**{**vars(made), "part_rows": 700, "coding": INT8, "code_bytes": 32})

    monkeypatch.setattr(disk_index, "plan_index", plan_small)
    index = open_index(folder, memory_bytes=GIB, report_progress=lambda stage, rows: added.append((stage, rows)))
    assert sum(rows for stage, rows in added if stage == "rows") == 3000
    assert max(rows for stage, rows in added if stage == "rows") <= 700
    again = open_index(folder, memory_bytes=GIB)
    for one in (index, again):
        assert (one.search(query, 5).rows == expected.rows).float().mean() > 0.9
    names = sorted(path.name for path in (folder / disk_index.FOLDER).iterdir())
    assert [name.split(".")[-1] for name in names] == ["faiss", "ivfdata", "json"], "no part is left"


def test_new_shards_are_added(folder, caplog):
    first = open_index(folder, memory_bytes=GIB)
    more = draw_clusters(3400)[3000:]
    draw_folder(folder, more, num_shards=1, rank=0, prefix="new")  # its name sorts before others
    index = open_index(folder, memory_bytes=GIB)
    assert index.content["trained_on"] == 3000 and len(index.rows) == index._index.ntotal == 3400
    assert [shard["name"] for shard in index.content["shards"]][:5] == [s["name"] for s in first.content["shards"]]
    hits = index.search(more[:20], 1)
    assert hits.rows[:, 0].tolist() == list(range(3000, 3020)), "old rows keep their numbers"
    assert index.rows.read_table(hits.rows[0].numpy())["path"].to_pylist() == ["new-0.mp4"]


def test_new_shards_for_an_index_that_does_not_fit_any_more(folder, monkeypatch, caplog):
    first = open_index(folder, memory_bytes=GIB)
    memory_bytes = (folder / disk_index.FOLDER / first.content["index_file"]).stat().st_size
    monkeypatch.setattr(disk_index, "_MIN_MEMORY", 1)
    draw_folder(folder, draw_clusters(300), num_shards=1, prefix="new")
    index = open_index(folder, memory_bytes=memory_bytes)
    assert len(index.rows) == 3300 and index.content["plan"]["coding"] != first.content["plan"]["coding"]
    assert "made with more memory" in caplog.text


def test_changed_shards_and_many_new_ones_make_it_anew(folder, caplog):
    open_index(folder, memory_bytes=GIB)
    draw_folder(folder, draw_clusters(5000)[3000:], num_shards=1, prefix="new")
    index = open_index(folder, memory_bytes=GIB)
    assert index.content["trained_on"] == 5000
    index.rows.shards[2].unlink()
    assert len(open_index(folder, memory_bytes=GIB).rows) == 5000 - 600
    assert sorted(path.suffix for path in (folder / disk_index.FOLDER).iterdir()) == [".faiss", ".json"]


def test_a_shard_with_other_numbers_is_noticed(folder, caplog):
    rows, first = ShardRows(folder), open_index(folder, memory_bytes=GIB)
    before = rows.describe_shards()
    draw_folder(folder, draw_clusters(600)[:600] * 2, num_shards=1, replace=rows.shards[1].name)
    after = ShardRows(folder).describe_shards()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, True, True]
    second = open_index(folder, memory_bytes=GIB)
    assert second.content["shards"] == after and second.content["index_file"] != first.content["index_file"]
    assert "1 shards have changed or are gone" in caplog.text


@pytest.mark.parametrize("text", ["{", '{"format": 0, "index_file": "index-000000.faiss"}'])
def test_a_damaged_side_car_makes_it_anew(folder, text):
    open_index(folder, memory_bytes=GIB)
    side_car = folder / disk_index.FOLDER / disk_index.SIDE_CAR
    side_car.write_text(text)
    open_index(folder, memory_bytes=GIB)
    assert simplejson.loads(side_car.read_text())["rows"] == 3000


def test_few_rows_and_those_that_are_not_found(tmp_path):
    vectors = torch.cat([torch.zeros(1, 8), torch.eye(8)[:3], -torch.eye(8)[:1]])
    index = open_index(draw_folder(tmp_path, vectors, num_shards=2), memory_bytes=GIB)
    hits = index.search(torch.eye(8)[:1], 9)
    assert hits.rows[0].tolist() == [1, 0, 2, 3, 4] and hits.scores[0].tolist() == [1, 0, 0, 0, -1]
    with pytest.raises(ValueError, match="k is 0"):
        index.search(torch.eye(8)[:1], 0)


def test_rows_that_are_not_finite_are_named(tmp_path):
    vectors = draw_clusters(60)
    vectors[41, 2] = torch.nan
    with pytest.raises(ValueError, match="row 41 holds numbers that are not finite"):
        open_index(draw_folder(tmp_path, vectors, num_shards=2), memory_bytes=GIB)
