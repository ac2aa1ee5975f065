"""Released weights by name, from a server of this machine."""

import contextlib
import functools
import hashlib
import http.server
import logging
import threading
from pathlib import Path

import pytest
import torch

import hiera_video as hv
from hiera_video.models import released
from hiera_video.models.released import WEIGHTS, get_class_names, resolve_weights
from hiera_video.utils import pathmgr as pathmgr_module


@contextlib.contextmanager
def serve(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder that is served as the place of the released files; and an empty cache."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "hiera").mkdir()
    with serve(tmp_path) as url:
        monkeypatch.setenv("HIERA_VIDEO_WEIGHTS_URL", f"{url}/hiera")
        yield tmp_path / "hiera"


def test_every_name_has_the_address_of_its_file(monkeypatch):
    monkeypatch.delenv("HIERA_VIDEO_WEIGHTS_URL", raising=False)
    base = "https://dl.fbaipublicfiles.com/hiera"
    assert resolve_weights("hiera_base_16x224", "mae_k400_ft_k400") == f"{base}/hiera_base_16x224.pth"
    assert resolve_weights("hiera_base_16x224", "mae_k400") == f"{base}/mae_hiera_base_16x224.pth"
    assert resolve_weights("mae_hiera_base_plus_16x224", "mae_k400") == f"{base}/mae_hiera_base_plus_16x224.pth"
    assert resolve_weights("hiera_tiny_224", "mae_in1k_ft_in1k") == f"{base}/hiera_tiny_224.pth"
    assert resolve_weights("hiera_base_16x224", "mae_in1k") == f"{base}/mae_hiera_base_224.pth"
    assert resolve_weights("hiera_base_16x224", "my.pth") == "my.pth"
    with pytest.raises(ValueError, match="no released weights mae_k400 for hiera_tiny_16x224; there are for base"):
        resolve_weights("hiera_tiny_16x224", "mae_k400")


def test_names_know_their_classes():
    kinetics, imagenet = get_class_names("mae_k400_ft_k400"), hv.get_class_names("mae_in1k_ft_in1k")
    assert len(kinetics) == 400 and list(kinetics) == sorted(kinetics) and kinetics[0] == "abseiling"
    assert len(imagenet) == 1000 and imagenet[0] == "tench"
    assert get_class_names(resolve_weights("hiera_large_16x224", "mae_k400_ft_k400")) == kinetics
    assert get_class_names("mae_k400") == get_class_names("my.pth") == ()
    assert all(len(get_class_names(name)) in (0, 400, 1000) for name in WEIGHTS)


def test_a_model_is_built_with_weights_by_name_and_the_file_is_fetched_once(mirror, caplog):
    torch.manual_seed(0)
    state = hv.build_model("hiera_tiny_224").state_dict()
    torch.save({"model_state": state}, mirror / "hiera_tiny_224.pth")
    with caplog.at_level(logging.INFO):
        model = hv.build_model("hiera_tiny_224", weights="mae_in1k_ft_in1k")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    sha256 = hashlib.sha256((mirror / "hiera_tiny_224.pth").read_bytes()).hexdigest()
    assert "CC BY-NC 4.0" in caplog.text and f"SHA-256 {sha256}" in caplog.text
    caplog.clear()
    (mirror / "hiera_tiny_224.pth").unlink()  # from now on it must come from the cache
    with caplog.at_level(logging.INFO):
        hv.build_model("hiera_tiny_224", weights="mae_in1k_ft_in1k", num_classes=7)
    assert "CC BY-NC" not in caplog.text and "head for 1000 classes dropped" in caplog.text


def test_two_hosts_files_of_equal_paths_are_two_files(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    for name in ("one", "two"):
        (tmp_path / name / "hiera").mkdir(parents=True)
        (tmp_path / name / "hiera" / "w.pth").write_text(name)
    with serve(tmp_path / "one") as one, serve(tmp_path / "two") as two:
        read = [Path(pathmgr_module.fetch_file(f"{url}/hiera/w.pth")).read_text() for url in (one, two, one)]
        assert read == ["one", "two", "one"]
        assert pathmgr_module.is_cached(f"{one}/hiera/w.pth") and not pathmgr_module.is_cached(f"{one}/hiera/x.pth")


def test_a_cached_file_that_has_changed_is_named(mirror):
    (mirror / "w.pth").write_text("weights")
    path = pathmgr_module.fetch_file(f"{released.get_address()}/w.pth")
    with open(path, "a") as file:
        file.write(" cut or grown")
    with pytest.raises(FileNotFoundError, match="had 7 bytes when it was fetched, now 20; remove it"):
        pathmgr_module.fetch_file(f"{released.get_address()}/w.pth")


def test_a_file_that_is_not_there_is_named(mirror):
    with pytest.raises(FileNotFoundError, match=r"hiera_tiny_224\.pth: cannot be fetched: HTTP Error 404"):
        hv.build_model("hiera_tiny_224", weights="mae_in1k_ft_in1k")
