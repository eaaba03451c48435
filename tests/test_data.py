"""Reading, fetching and drawing data sets; every message a user can get."""

import hashlib
import http.server
import io
import os
import pickle
import socket
import tarfile
import threading
import urllib.request

import numpy as np
import pytest
from torchvision.datasets import CIFAR100

from utils import data
from utils.catalog import DATASETS
from utils.data import DataError, load_dataset

REAL = os.environ.get("CIFAR100_DIR")


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# --- CIFAR: a data set of six images in CIFAR-100's layout, with checksums of its own -------------


class SmallCifar:
    """Files, archive and reader of a small stand-in; the real reader reads it."""

    def __init__(self, url):
        rng = np.random.default_rng(0)
        self.pixels = {
            split: rng.integers(0, 256, (n, 3072), dtype=np.uint8)
            for split, n in (("train", 4), ("test", 2))
        }
        labels = {"train": [2, 0, 1, 2], "test": [1, 0]}
        self.files = {
            split: pickle.dumps({"data": self.pixels[split], "fine_labels": labels[split]})
            for split in labels
        }
        self.files["meta"] = pickle.dumps({"fine_label_names": ["ant", "bee", "cat"]})
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in self.files.items():
                info = tarfile.TarInfo(f"cifar-100-python/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        self.archive = buffer.getvalue()
        self.reader = type(
            "SmallReader",
            (CIFAR100,),
            {
                "url": url,
                "tgz_md5": md5(self.archive),
                "train_list": [["train", md5(self.files["train"])]],
                "test_list": [["test", md5(self.files["test"])]],
                "meta": {**CIFAR100.meta, "md5": md5(self.files["meta"])},
            },
        )

    def write_files(self, data_dir):
        folder = data_dir / "cifar-100-python"
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder

    def check(self, arrays):
        for split, images in (("train", arrays.train_images), ("test", arrays.test_images)):
            assert images.dtype == np.uint8
            assert images.flags.c_contiguous
            # Each row of the files holds the red plane, then the green, then the blue one.
            np.testing.assert_array_equal(images, self.pixels[split].reshape(-1, 3, 32, 32))
        assert arrays.train_labels.dtype == arrays.test_labels.dtype == np.int64
        assert arrays.train_labels.tolist() == [2, 0, 1, 2]
        assert arrays.test_labels.tolist() == [1, 0]
        assert arrays.num_classes == 3
        assert arrays.mean == DATASETS["cifar100"].mean
        assert arrays.std == DATASETS["cifar100"].std


@pytest.fixture
def cifar(monkeypatch):
    """The stand-in instead of the real CIFAR-100, with nobody at its download address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = SmallCifar(f"http://127.0.0.1:{port}/cifar-100-python.tar.gz")
    monkeypatch.setitem(data._CIFAR, "cifar100", small.reader)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return small


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def serve(tmp_path_factory):
    """Serve content over http from this machine: returns the address of the file."""
    servers = []

    def start(content):
        folder = tmp_path_factory.mktemp("served")
        (folder / "cifar-100-python.tar.gz").write_bytes(content)

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=folder)

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/cifar-100-python.tar.gz"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def message(data_dir, name="cifar100", **options):
    with pytest.raises(DataError) as caught:
        load_dataset(name, data_dir, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_files_that_are_there_need_no_network(tmp_path, cifar, no_network):
    cifar.write_files(tmp_path)
    cifar.check(load_dataset("cifar100", tmp_path))
    cifar.check(load_dataset("cifar100", str(tmp_path)))


def test_the_folder_of_the_files_itself_may_be_given(tmp_path, cifar, no_network, monkeypatch):
    folder = cifar.write_files(tmp_path / "data")
    cifar.check(load_dataset("cifar100", folder))
    (tmp_path / "link").symlink_to(folder)
    cifar.check(load_dataset("cifar100", tmp_path / "link"))
    monkeypatch.chdir(folder)
    cifar.check(load_dataset("cifar100", "."))
    renamed = folder.rename(tmp_path / "CIFAR")
    assert "must be called cifar-100-python: rename it" in message(renamed)
    assert sorted(path.name for path in renamed.iterdir()) == ["meta", "test", "train"]


def test_the_folder_of_another_cifar_is_no_place_for_a_download(tmp_path, no_network):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    assert "another data set's files" in message(folder)
    assert not list(folder.iterdir())


def test_what_is_missing_goes_beside_the_folder_that_was_given(tmp_path, cifar, serve):
    cifar.reader.url = serve(cifar.archive)
    cifar.check(load_dataset("cifar100", tmp_path / "cifar-100-python"))
    assert (tmp_path / "cifar-100-python" / "train").is_file()
    assert (tmp_path / "cifar-100-python.tar.gz").is_file()


def test_an_archive_that_is_there_is_unpacked_without_network(tmp_path, cifar, no_network):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(cifar.archive)
    cifar.check(load_dataset("cifar100", tmp_path))


@pytest.mark.parametrize("file", ["train", "test", "meta"])
def test_one_missing_file_is_unpacked_again(tmp_path, cifar, no_network, file):
    (cifar.write_files(tmp_path) / file).unlink()
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(cifar.archive)
    cifar.check(load_dataset("cifar100", tmp_path))


def test_a_missing_data_set_is_downloaded_with_progress(tmp_path, cifar, serve, capfd):
    cifar.reader.url = serve(cifar.archive)
    cifar.check(load_dataset("cifar100", tmp_path / "new" / "folder"))
    captured = capfd.readouterr()
    assert "100%" in captured.err
    assert captured.out == ""
    assert socket.getdefaulttimeout() is None


def test_a_failed_download_says_what_to_put_where(tmp_path, cifar):
    text = message(tmp_path / "data")
    assert f"cifar100 is not in {tmp_path / 'data'}" in text
    assert "refused" in text
    assert "cifar-100-python.tar.gz" in text
    assert md5(cifar.archive) in text
    assert cifar.reader.url in text
    assert "--data_dir" in text
    assert "--dataset synthetic" in text
    assert socket.getdefaulttimeout() is None


def test_the_real_readers_name_the_real_archives():
    assert data._CIFAR["cifar100"].tgz_md5 == "eb9058c3a382ffc7106e4002c42a8d85"
    assert data._CIFAR["cifar10"].tgz_md5 == "c58f30108f718f92721af3b95e74349a"


def test_a_damaged_archive_is_not_unpacked(tmp_path, cifar):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(cifar.archive[:-9])
    text = message(tmp_path)
    assert f"the one there now has md5 {md5(cifar.archive[:-9])}" in text
    assert md5(cifar.archive) in text


def test_a_download_of_something_else_is_not_unpacked(tmp_path, cifar, serve):
    cifar.reader.url = serve(b"please sign in to this wireless network")
    assert "the one there now has md5" in message(tmp_path)
    assert not (tmp_path / "cifar-100-python").exists()


@pytest.mark.parametrize("file", ["train", "test", "meta"])
def test_a_damaged_file_is_named(tmp_path, cifar, no_network, file):
    path = cifar.write_files(tmp_path) / file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    text = message(tmp_path)
    assert f"{path} is damaged" in text
    assert md5(cifar.files[file]) in text
    assert "delete it" in text


def test_a_silent_server_is_given_up(tmp_path, cifar, monkeypatch):
    monkeypatch.setattr(data, "_STALL_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never answers
        cifar.reader.url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        assert "timed out" in message(tmp_path)


def test_a_folder_that_is_a_file(tmp_path, cifar, no_network):
    (tmp_path / "data").write_text("not a folder")
    text = message(tmp_path / "data")
    assert str(tmp_path / "data") in text
    assert "exists" in text


def test_an_unreadable_file(tmp_path, cifar, no_network, monkeypatch):
    folder = cifar.write_files(tmp_path)

    def deny(path, md5):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(data, "check_integrity", deny)
    text = message(tmp_path)
    assert f"cannot be read from {folder}" in text
    assert "Permission denied" in text


def test_an_unknown_data_set(tmp_path):
    assert "there are cifar10, cifar100, synthetic" in message(tmp_path, "cifar1000")


@pytest.mark.skipif(not REAL, reason="set CIFAR100_DIR to a folder with cifar-100-python in it")
def test_the_real_cifar100(no_network):
    arrays = load_dataset("cifar100", REAL)
    assert arrays.train_images.shape == (50_000, 3, 32, 32)
    assert arrays.test_images.shape == (10_000, 3, 32, 32)
    assert arrays.num_classes == 100
    assert set(np.bincount(arrays.train_labels)) == {500}
    assert set(np.bincount(arrays.test_labels)) == {100}
    for channel in range(3):
        values = np.bincount(arrays.train_images[:, channel].reshape(-1), minlength=256)
        values, grey = values / values.sum(), np.arange(256) / 255
        mean = values @ grey
        assert mean == pytest.approx(arrays.mean[channel], abs=3e-4)
        std = np.sqrt(values @ (grey - mean) ** 2)
        assert std == pytest.approx(arrays.std[channel], abs=3e-4)


# --- synthetic ------------------------------------------------------------------------------------


def test_the_synthetic_images_never_change():
    """The same bits on every machine; a change here changes every number measured on them."""
    arrays = load_dataset("synthetic", "", synthetic_train_per_class=3, synthetic_test_per_class=1)
    assert arrays.train_images.shape == (300, 3, 32, 32)
    assert arrays.test_images.shape == (100, 3, 32, 32)
    assert hashlib.sha256(arrays.train_images).hexdigest().startswith("d42de88a3f414f58")
    assert hashlib.sha256(arrays.test_images).hexdigest().startswith("3a2381de92c2187f")


def test_fewer_classes_and_images_are_the_first_ones():
    sizes = {"synthetic_train_per_class": 6, "synthetic_test_per_class": 3}
    full = load_dataset("synthetic", "", synthetic_classes=9, **sizes)
    few = load_dataset(
        "synthetic",
        "",
        synthetic_classes=4,
        synthetic_train_per_class=2,
        synthetic_test_per_class=1,
    )
    assert few.num_classes == 4
    assert few.train_labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert few.test_labels.tolist() == [0, 1, 2, 3]
    assert few.train_labels.dtype == few.test_labels.dtype == np.int64
    by_class = full.train_images.reshape(9, 6, 3, 32, 32)
    np.testing.assert_array_equal(few.train_images, by_class[:4, :2].reshape(8, 3, 32, 32))
    np.testing.assert_array_equal(few.test_images, full.test_images[[0, 3, 6, 9]])


def test_no_synthetic_image_occurs_twice():
    arrays = load_dataset("synthetic", "", synthetic_train_per_class=4, synthetic_test_per_class=4)
    images = np.concatenate([arrays.train_images, arrays.test_images])
    assert len({image.tobytes() for image in images}) == len(images)
    assert images.flags.c_contiguous


def test_every_class_is_a_combination_of_its_own_and_early_ones_are_mixed(monkeypatch):
    seen = []
    shape_of, texture_of = data._depth, data._paint
    monkeypatch.setattr(data, "_depth", lambda s, u, v: seen.append([s]) or shape_of(s, u, v))
    monkeypatch.setattr(data, "_paint", lambda t, u, v: seen[-1].append(t) or texture_of(t, u, v))
    arrays = load_dataset("synthetic", "", synthetic_train_per_class=40, synthetic_test_per_class=1)
    # The colour of a class: the nearest of the five to the mean hue of its train images, where a
    # hue is a pixel less its grey value.
    pixels = arrays.train_images.reshape(100, 40, 3, -1).astype(np.float64)
    hue = (pixels - pixels.mean(axis=2, keepdims=True)).mean(axis=(1, 3))
    wanted = data._COLOURS - data._COLOURS.mean(axis=1, keepdims=True)
    cosine = hue @ wanted.T / np.linalg.norm(wanted, axis=1)
    parts = [(*seen[i], cosine[i].argmax()) for i in range(100)]
    assert len(set(parts)) == 100
    for axis, count in enumerate((5, 4, 5)):
        assert len({part[axis] for part in parts[:20]}) == count


def test_the_synthetic_classes_can_be_told_apart_but_not_by_pixels_alone():
    """The nearest class mean in pixel space is far above chance (5 %) and far from perfect."""
    arrays = load_dataset(
        "synthetic",
        "",
        synthetic_classes=20,
        synthetic_train_per_class=30,
        synthetic_test_per_class=20,
    )
    means = arrays.train_images.reshape(20, 30, -1).mean(axis=1)
    distances = [((means - image.reshape(-1)) ** 2).sum(axis=1) for image in arrays.test_images]
    accuracy = np.mean(np.argmin(distances, axis=1) == arrays.test_labels)
    assert 0.15 < accuracy < 0.6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("synthetic_classes", 0),
        ("synthetic_classes", 101),
        ("synthetic_train_per_class", 0),
        ("synthetic_test_per_class", -1),
    ],
)
def test_impossible_sizes_name_their_key(key, value):
    sizes = {"synthetic_classes": 2, "synthetic_train_per_class": 2, key: value}
    assert f"{key} is {value}; it must be 1 " in message("", "synthetic", **sizes)
