"""Probes against loops and formulas that are written out, and on data of which the answer is known."""

import itertools
import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from hiera_video.embeddings.probes import attentive as attentive_probe
from hiera_video.embeddings.probes import linear as linear_probe
from hiera_video.embeddings.probes import neighbors
from hiera_video.embeddings.probes.attentive import AttentiveProbe, classify_attentive
from hiera_video.embeddings.probes.bootstrap import compute_bootstrap_intervals
from hiera_video.embeddings.probes.labeled import LabeledVideos, compute_scaling, group_by_video, hold_out
from hiera_video.embeddings.probes.linear import classify_linear
from hiera_video.embeddings.probes.neighbors import classify_knn, expect_random_retrieval, score_retrieval
from hiera_video.embeddings.probes.run import run_probes
from hiera_video.embeddings.reading import Embeddings


def make_clusters(num_videos, *, num_classes=3, dim=8, noise=0.3, seed=0, signal=1.0, max_windows=3):
    """Videos around a center for each class; the centers are the same for every seed."""
    centers = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(77)) * signal
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_videos) % num_classes
    counts = torch.randint(1, max_windows + 1, (num_videos,), generator=draw)
    windows = centers[labels].repeat_interleave(counts, 0)
    return LabeledVideos(windows + noise * torch.randn(windows.shape, generator=draw), counts, labels)


def make_needles(num_videos, *, seed, num_classes=4, dim=32, num_windows=16):
    """Only one window of a video tells the class; the others are noise of the same length."""
    centers = torch.nn.functional.normalize(
        torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(5)), dim=1
    )
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_videos) % num_classes
    counts = torch.randint(num_windows // 2, num_windows + 1, (num_videos,), generator=draw)
    windows = torch.randn(int(counts.sum()), dim, generator=draw)
    place = counts.cumsum(0) - 1 - (torch.rand(num_videos, generator=draw) * counts).long()
    windows[place] = centers[labels] * dim**0.5 + 0.3 * windows[place]
    return LabeledVideos(windows, counts, labels)


def test_windows_are_grouped_by_video():
    table = pd.DataFrame({"path": ["b", "a", "b", "c"], "label": ["run", "fall", "run", "sit"]})
    vectors = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 9]])
    videos = group_by_video(Embeddings(table, vectors, {}), ["fall", "run"])
    assert videos.counts.tolist() == [2, 1, 1] and videos.labels.tolist() == [1, 0, -1] and len(videos) == 3
    assert videos.windows.tolist() == [[1, 2], [5, 6], [3, 4], [7, 9]]
    assert videos.compute_means().tolist() == [[3, 4], [3, 4], [7, 9]]
    padded, is_window = videos.pad(torch.tensor([2, 0]))
    assert is_window.tolist() == [[True, False], [True, True]]
    assert padded[is_window].tolist() == [[7, 9], [1, 2], [5, 6]]
    many = pd.DataFrame({"path": list("abc") * 100, "label": ["fall"] * 300})
    rows = group_by_video(Embeddings(many, torch.arange(300.0)[:, None], {}), ["fall"]).windows[:, 0]
    assert rows.tolist() == [*range(0, 300, 3), *range(1, 300, 3), *range(2, 300, 3)], "in the order of the rows"
    vectors[2, 0] = torch.nan
    with pytest.raises(ValueError, match="1 of 4 embeddings hold NaN or infinity, first of b"):
        group_by_video(Embeddings(table, vectors, {}), ["fall", "run"])


def test_the_held_out_part_has_the_same_share_of_each_class():
    labels = torch.tensor([0] * 20 + [1] * 10 + [2] * 2 + [3])
    held_out = hold_out(labels, seed=3)
    assert labels[held_out].bincount(minlength=4).tolist() == [4, 2, 1, 0]
    assert torch.equal(held_out, hold_out(labels, seed=3)) and not torch.equal(held_out, hold_out(labels, seed=4))


def test_knn_agrees_with_a_loop(monkeypatch):
    monkeypatch.setattr(neighbors, "_CHUNK", 300)  # several chunks
    draw = torch.Generator().manual_seed(0)
    train, test = torch.randn(60, 5, generator=draw), torch.randn(40, 5, generator=draw)
    labels = torch.randint(4, (60,), generator=draw)
    for k in (1, 7, 100):
        expected = []
        for query in test:
            cosine = torch.cosine_similarity(query[None], train)
            votes = [0.0] * 4
            for row in sorted(range(60), key=lambda i: -cosine[i])[:k]:
                votes[labels[row]] += np.exp(cosine[row].item() / 0.07)
            expected.append(int(np.argmax(votes)))
        assert classify_knn(train, labels, test, num_neighbors=k).tolist() == expected
    assert len(set(classify_knn(train, labels, test, num_neighbors=100).tolist())) > 1, "a far neighbor weighs less"


def test_left_out_rows_agree_with_a_loop_and_rows_with_nan_neither_vote_nor_hit(monkeypatch):
    monkeypatch.setattr(neighbors, "_CHUNK", 300)  # several chunks
    draw = torch.Generator().manual_seed(2)
    rows, labels = torch.randn(50, 3, generator=draw), torch.randint(4, (50,), generator=draw)
    rows[[7, 20]], rows[33, 1] = torch.nan, torch.inf
    for k in (1, 6, 48, 100):
        expected = []
        for i in range(50):
            cosine = {j: torch.cosine_similarity(rows[i], rows[j], dim=0).item() for j in range(50) if j != i}
            cosine = {j: value for j, value in cosine.items() if j not in (7, 20, 33)}
            votes = [0.0] * 4
            for j in sorted(cosine, key=lambda j: -cosine[j])[:k]:
                votes[labels[j]] += np.exp(cosine[j] / 0.07)
            expected.append(-1 if i in (7, 20, 33) else int(np.argmax(votes)))
        assert classify_knn(rows, labels, num_neighbors=k).tolist() == expected
        assert classify_knn(rows, labels, rows[[7, 0]], num_neighbors=k)[0] == -1
    assert classify_knn(rows[[7, 0]], labels[:2], num_neighbors=5).tolist() == [-1, -1], "nobody is left to vote"


def test_left_out_rows_of_a_case_worked_out_by_hand():
    # Directions 0, 10, 20 degrees of class 0; 90, 100 of class 1; 95 of class 0. Lengths do not matter.
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 20.0, 90.0, 100.0, 95.0]))
    rows = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[3.0], [1], [2], [5], [1], [1]])
    labels = torch.tensor([0, 0, 0, 1, 1, 0])
    assert classify_knn(rows, labels, num_neighbors=1).tolist()[:5] == [0, 0, 0, 0, 0]
    # 90 degrees sees 95 of class 0 and 100 of class 1, and the nearer one weighs more; 95 sees 90 and 100.
    assert classify_knn(rows, labels, num_neighbors=2).tolist() == [0, 0, 0, 0, 0, 1]


def test_nearest_rows_are_those_of_a_stable_sort(monkeypatch):
    draw = torch.Generator().manual_seed(3)
    similarity = torch.randint(-3, 4, (200, 40), generator=draw) / 3.0  # many equal values
    similarity[:50] = torch.randn(50, 40, generator=draw)
    for count in (1, 7, 39, 40, 60):
        values, rows = neighbors._take_nearest(similarity, count)
        expected = torch.sort(similarity, dim=1, descending=True, stable=True)
        assert torch.equal(values, expected.values[:, :count]) and torch.equal(rows, expected.indices[:, :count])


_MEASURE = """
import resource, torch
from hiera_video.embeddings.probes.neighbors import classify_knn
def measure_mib(rows, queries):
    labels = torch.arange(len(rows)) % 400
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    classify_knn(rows, labels, queries)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
classify_knn(torch.randn(500, 16), torch.arange(500) % 400)
print(measure_mib(torch.randn(20_000, 16), None), measure_mib(torch.randn(50_000, 768), torch.randn(800, 768)))
"""


@pytest.mark.slow
def test_memory_of_knn_does_not_grow_with_the_square_of_the_rows():
    """All similarities would be 1.6 GB in the first case. The second has the size of a large data set."""
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True)
    left_out, large = map(float, done.stdout.split())
    assert left_out < 600 and large < 1000


def test_ties_of_knn_follow_the_rule():
    train = torch.tensor([[1.0, 0], [2, 0], [0, 1], [0, 3]])
    test = torch.tensor([[5.0, 0], [1, 1]])
    assert classify_knn(train, torch.tensor([1, 0, 0, 1]), test, num_neighbors=1).tolist() == [1, 1], "the earlier row"
    assert classify_knn(train, torch.tensor([1, 0, 0, 1]), test, num_neighbors=4).tolist() == [0, 0], "the lower class"
    same = torch.ones(999, 3)
    assert classify_knn(same, torch.arange(999) % 7, same[:1], num_neighbors=8).tolist() == [0], "the first 8 rows vote"


def test_retrieval_of_cases_worked_out_by_hand():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.5], [0.0, 1.0]])
    queries = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    found = score_retrieval(gallery, torch.tensor([1, 0, 1, 0]), queries, torch.tensor([0, 1, -1]), recalls=(1, 2, 10))
    assert found["recall@1"].tolist() == [0, 0, 0] and found["recall@2"].tolist() == [1, 1, 0]
    assert found["recall@10"].tolist() == [1, 1, 0]
    # Order of the first query 0, 1, 2, 3 (hits in places 2 and 4), of the second 3, 2, 1, 0 (the same places).
    assert found["mAP"].tolist() == [0.5, 0.5, 0]


def test_average_precision_agrees_with_scikit_learn(monkeypatch):
    monkeypatch.setattr(neighbors, "_CHUNK", 200)
    draw = torch.Generator().manual_seed(1)
    gallery, queries = torch.randn(50, 6, generator=draw), torch.randn(30, 6, generator=draw)
    labels, query_labels = torch.randint(4, (50,), generator=draw), torch.randint(4, (30,), generator=draw)
    found = score_retrieval(gallery, labels, queries, query_labels)
    cosine = torch.cosine_similarity(queries[:, None], gallery[None], dim=2)
    for i, label in enumerate(query_labels):
        assert found["mAP"][i].item() == pytest.approx(average_precision_score(labels == label, cosine[i]), abs=1e-9)
        first = labels[cosine[i].argsort(descending=True)]
        for k in (1, 5, 10):
            assert found[f"recall@{k}"][i] == float(label in first[:k])


def test_random_retrieval_is_the_mean_over_all_orders():
    labels, queries = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 2, 3])
    expected = expect_random_retrieval(labels, queries, recalls=(1, 3, 10))
    sums = {name: np.zeros(4) for name in expected}
    orders = list(itertools.permutations(labels.tolist()))
    for order, (i, label) in itertools.product(orders, enumerate(queries.tolist())):
        hits = [place for place, other in enumerate(order, start=1) if other == label]
        for k in (1, 3, 10):
            sums[f"recall@{k}"][i] += any(place <= k for place in hits)
        sums["mAP"][i] += np.mean([(n + 1) / place for n, place in enumerate(hits)]) if hits else 0
    for name, total in sums.items():
        np.testing.assert_allclose(expected[name].numpy(), total / len(orders), atol=1e-12, err_msg=name)
    assert expect_random_retrieval(torch.tensor([4]), torch.tensor([4, 5]))["mAP"].tolist() == [1, 0]


def test_bootstrap_agrees_with_a_loop(monkeypatch):
    values = np.random.default_rng(0).random((13, 2)) * [1, 100]
    draw, means = np.random.default_rng(5), []
    for _ in range(200):
        means.append(values[draw.integers(13, size=13)].mean(axis=0))
    expected = np.percentile(means, [2.5, 97.5], axis=0).T
    whole = compute_bootstrap_intervals(values, seed=5, num_resamples=200)
    np.testing.assert_allclose(whole, expected, rtol=1e-12)
    monkeypatch.setattr("hiera_video.embeddings.probes.bootstrap._CHUNK", 40)  # several chunks
    np.testing.assert_allclose(compute_bootstrap_intervals(values, seed=5, num_resamples=200), expected, rtol=1e-12)


def test_bootstrap_of_a_known_case():
    hits = np.repeat([[0.0], [1.0]], 200, axis=0)
    low, high = compute_bootstrap_intervals(hits, seed=0, num_resamples=4000)[0]
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.004), "a binomial's"
    assert compute_bootstrap_intervals(np.ones((5, 1)), seed=0).tolist() == [[1, 1]]
    with pytest.raises(ValueError, match="0 rows"):
        compute_bootstrap_intervals(np.ones((0, 1)), seed=0)


def test_the_linear_probe_is_a_logistic_regression_of_standardized_features():
    train, test = make_clusters(90, noise=2.0), make_clusters(60, noise=2.0, seed=1)
    scale = torch.logspace(-3, 3, 8)
    x, y, z = train.compute_means() * scale + 5, train.labels, test.compute_means() * scale + 5
    held_out = hold_out(y, seed=0)
    predicted, strength = classify_linear(x, y, z, held_out=held_out)

    def fit(rows, others, c):
        mean, std = x[rows].mean(0), x[rows].std(0, correction=0)
        model = LogisticRegression(C=c, max_iter=500).fit((x[rows] - mean) / std, y[rows])
        return model, (others - mean) / std

    scores = {}
    for c in linear_probe.STRENGTHS:
        model, others = fit(~held_out, x[held_out], c)
        share = model.predict_proba(others)
        scores[c] = (
            (model.predict(others) == y[held_out].numpy()).mean(),
            np.log(share[np.arange(len(others)), y[held_out]]).mean(),
        )
    assert strength == max(scores, key=scores.get) and len({hits for hits, _ in scores.values()}) > 1
    model, others = fit(torch.ones(90, dtype=torch.bool), z, strength)
    assert (predicted.numpy() == model.predict(others)).mean() > 0.98, "all of train is fitted"
    assert classify_linear(x, y, z, held_out=torch.zeros(90, dtype=torch.bool))[1] == 1.0


def test_constant_features_are_not_blown_up():
    features = torch.randn(100, 3)
    features[:, 1] = 0.1
    mean, std = compute_scaling(features)
    assert mean[1] == pytest.approx(0.1) and std[1] == 1 and std[0] == pytest.approx(features[:, 0].std(correction=0))


def test_attention_is_that_of_torch_and_ignores_padding():
    torch.manual_seed(0)
    dim, heads = 24, 4
    probe = AttentiveProbe(torch.zeros(dim), torch.ones(dim), num_classes=5)
    reference = torch.nn.MultiheadAttention(dim, heads, batch_first=True)
    query, head = torch.randn(1, 1, dim), torch.nn.Linear(dim, 5)
    key_weight, value_weight = reference.in_proj_weight[dim : 2 * dim], reference.in_proj_weight[2 * dim :]
    torch.nn.init.normal_(reference.in_proj_bias)
    projected = query[0, 0] @ reference.in_proj_weight[:dim].T + reference.in_proj_bias[:dim]
    folded = (
        torch.einsum("hd,hdD->hD", projected.view(heads, -1), key_weight.view(heads, -1, dim)) / (dim // heads) ** 0.5
    )
    with torch.no_grad():
        probe.query.copy_(folded)
        probe.value.weight.copy_(value_weight)
        probe.value.bias.copy_(reference.in_proj_bias[2 * dim :])
        probe.head.weight.copy_(head.weight @ reference.out_proj.weight)
        probe.head.bias.copy_(head(reference.out_proj.bias))
    assert probe.num_heads == heads
    windows, is_window = torch.randn(3, 6, dim), torch.arange(6) < torch.tensor([[6], [1], [4]])
    tokens = torch.nn.functional.layer_norm(windows, (dim,))
    seen, _ = reference(query.expand(3, 1, dim), tokens, tokens, key_padding_mask=~is_window)
    torch.testing.assert_close(probe(windows, is_window), head(seen[:, 0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probe(windows[1:2, :1], is_window[1:2, :1]), probe(windows, is_window)[1:2])


@pytest.mark.slow
def test_attention_finds_the_window_that_tells():
    train, test = make_needles(320, seed=0), make_needles(200, seed=1)
    scores = {s.probe: s for s in run_probes(train, test, num_classes=4, probes=["linear", "attentive"]).scores}
    assert scores["attentive"].low > scores["linear"].high and scores["attentive"].value > 90


@pytest.mark.parametrize("probe", ["knn", "linear", pytest.param("attentive", marks=pytest.mark.slow), "retrieval"])
def test_separable_classes_are_told_apart_and_noise_is_not(probe):
    train, test = make_clusters(60, noise=0.1), make_clusters(45, noise=0.1, seed=1)
    for score in run_probes(train, test, num_classes=3, probes=[probe], num_neighbors=5).scores:
        assert score.value == score.low == score.high == 100
        assert score.baseline < 50 or "recall@" in score.metric
    noise, more = (make_clusters(n, signal=0.0, seed=seed) for n, seed in ((150, 2), (240, 3)))
    scores = run_probes(noise, more, num_classes=3, probes=[probe]).scores
    for score in scores:
        slack = 0.5 if score.metric == "mAP" else 0.0  # its interval is narrow, and the gallery's noise is not in it
        assert score.low - slack <= score.baseline <= score.high + slack
    if probe != "retrieval":
        assert scores[0].metric == "top-1" and scores[0].baseline == pytest.approx(100 / 3)


@pytest.mark.slow
def test_test_labels_decide_about_nothing_but_the_score():
    train, test = make_clusters(60, noise=3.0), make_clusters(50, noise=3.0, seed=1)
    shuffled = LabeledVideos(test.windows, test.counts, test.labels.roll(7))
    first, second = (run_probes(train, videos, num_classes=3) for videos in (test, shuffled))
    assert first.settings == second.settings and list(first.predicted) == ["knn", "linear", "attentive"]
    for probe, predicted in first.predicted.items():
        assert torch.equal(predicted, second.predicted[probe]), probe
    assert [s.value for s in first.scores] != [s.value for s in second.scores]


@pytest.mark.slow
def test_the_report_states_what_was_chosen_and_counts_unseen_classes_as_wrong():
    train, test = make_clusters(61, noise=0.1), make_clusters(40, seed=1, noise=0.1)
    test.labels[:10] = -1
    report = run_probes(train, test, num_classes=3, num_neighbors=500)
    assert report.settings["knn"] == {"num_neighbors": 61}
    assert report.settings["linear"]["C"] in linear_probe.STRENGTHS and report.settings["linear"]["num_held_out"] == 12
    attentive = report.settings["attentive"]
    assert attentive["weight_decay"] in attentive_probe.WEIGHT_DECAYS
    assert 1 <= attentive["num_epochs"] <= attentive_probe.NUM_EPOCHS
    values = {(s.probe, s.metric): s for s in report.scores}
    assert values["linear", "top-1"].value == values["attentive", "top-1"].value == 75
    assert values["retrieval", "recall@1"].value == values["retrieval", "mAP"].value == 75
    majority = 100 * (test.labels == 0).double().mean().item()
    assert values["knn", "top-1"].baseline == pytest.approx(majority)
    share = 100 * np.mean([(train.labels == label).double().mean() for label in test.labels])
    assert values["retrieval", "recall@1"].baseline == pytest.approx(share)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_global_generators_keep_their_state():
    train, test = make_clusters(60, noise=3.0), make_clusters(50, noise=3.0, seed=1)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = run_probes(train, test, num_classes=3)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    torch.manual_seed(999)
    second = run_probes(train, test, num_classes=3)
    assert first.scores == second.scores and first.settings == second.settings
    third = run_probes(train, test, num_classes=3, seed=1)
    assert [(s.low, s.high) for s in first.scores] != [(s.low, s.high) for s in third.scores]
    options = {"num_classes": 3, "held_out": torch.zeros(60, dtype=torch.bool)}
    assert classify_attentive(train, test, seed=0, **options).num_epochs == attentive_probe.NUM_EPOCHS


def test_wrong_input_is_named():
    train, none = make_clusters(9), LabeledVideos(torch.zeros(0, 8), *torch.zeros(2, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"probes = \['svm'\]; each must be one of knn, linear, attentive, retrieval"):
        run_probes(train, train, num_classes=3, probes=["svm"])
    with pytest.raises(ValueError, match="there is no test video"):
        run_probes(train, none, num_classes=3)
    with pytest.raises(ValueError, match="of 1 class; a probe needs at least 2"):
        run_probes(train, train, num_classes=1)
