"""Splits are fixed and disjoint, epochs are permutations, and nothing is fetched unasked."""

import math
import socket
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pruning_lab import data


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Whoever opens a connection in these tests fails."""

    def refuse(*_, **__):
        raise AssertionError("nothing is downloaded unless asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


def idx(*shape: int, seed: int = 0) -> bytes:
    """A file in MNIST's own format, filled with random bytes below 10."""
    content = np.random.default_rng(seed).integers(0, 10, shape, dtype=np.uint8)
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + content.tobytes()


@pytest.fixture
def small_mnist(tmp_path):
    """MNIST's four files with 5,007 and 6 images of noise."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(5007, 28, 28))
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(5007))
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(6, 28, 28, seed=1))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(6, seed=1))
    return tmp_path


# --- MNIST -------------------------------------------------------------------------------------


def test_val_is_the_last_5000_of_mnists_training_images_byte_for_byte(mnist_root):
    from torchvision import datasets

    splits = data.load("mnist", root=mnist_root)
    train, test = (datasets.MNIST(mnist_root, train=train) for train in (True, False))
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [55_000, 5_000, 10_000]
    assert torch.equal(splits.train.images[:, 0], train.data[:55_000])
    assert torch.equal(splits.val.images[:, 0], train.data[55_000:])
    assert torch.equal(splits.val.labels, train.targets[55_000:])
    assert torch.equal(splits.test.images[:, 0], test.data)
    assert torch.equal(splits.test.labels, test.targets)
    pixels = train.data[:55_000].numpy()
    assert splits.test.mean == pytest.approx(pixels.mean(), rel=1e-7)
    assert splits.test.std == pytest.approx(pixels.std(), rel=1e-6)


def test_mnist_in_its_own_layout_is_read_from_any_folder(small_mnist, monkeypatch):
    monkeypatch.setenv("PRUNING_LAB_DATA", str(small_mnist))
    splits = data.load()
    assert (splits.name, len(splits.train), len(splits.val)) == ("mnist", 7, 5000)
    assert (small_mnist / "MNIST" / "raw").as_posix() in str(splits)


def test_missing_mnist_is_said_with_its_folder_and_what_to_type(tmp_path, small_mnist):
    says = r"no MNIST in .*MNIST/raw; set PRUNING_LAB_DATA .* --download .*, or take digits"
    with pytest.raises(FileNotFoundError, match=says) as caught:
        data.load("mnist", root=tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    (small_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="no MNIST in"):
        data.load("mnist", root=small_mnist)


@pytest.mark.parametrize("name", ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:3],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"\x1f\x8b\x08" + content[3:],  # still compressed
        lambda content: content[:2] + b"\x0a" + content[3:],  # a type of number that has no name
        lambda content: content[:2] + b"\x09" + content[3:],
    ],
)
def test_broken_mnist_is_said_to_be_broken_in_one_sentence(small_mnist, name, damage):
    path = small_mnist / "MNIST" / "raw" / f"{name}-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"MNIST files in .*MNIST/raw are broken: .*--download"):
        data.load("auto", root=small_mnist)


def test_a_download_that_fails_is_not_answered_with_ask_for_a_download(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    with pytest.raises(ConnectionError, match="could not be fetched") as caught:
        data.load("mnist", root=tmp_path, download=True)
    assert "--download" not in str(caught.value)


def test_mnist_with_labels_of_other_images_is_refused(small_mnist):
    raw = small_mnist / "MNIST" / "raw"
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(5))
    with pytest.raises(ValueError, match=r"\(6, 28, 28\) pixels and 5 labels"):
        data.load("mnist", root=small_mnist)


def test_mnist_too_small_to_split_is_refused(small_mnist):
    raw = small_mnist / "MNIST" / "raw"
    (raw / "train-images-idx3-ubyte").write_bytes(idx(5000, 28, 28))
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(5000))
    with pytest.raises(ValueError, match="5,000 training images, of which val takes 5,000"):
        data.load("mnist", root=small_mnist)


# --- digits and auto ---------------------------------------------------------------------------


def test_auto_takes_digits_where_mnist_is_not_and_says_so(tmp_path, digits):
    splits = data.load(root=tmp_path)
    assert splits.name == "digits"
    assert str(splits).startswith("digits: 1,294 train / 144 val / 359 test images of 1 x 28 x 28")
    assert f"{tmp_path}/MNIST/raw is not there" in str(splits)
    assert splits.val.fingerprint() == digits.val.fingerprint()
    assert list(tmp_path.iterdir()) == []


def test_digits_are_scikit_learns_in_order_each_in_one_split(digits):
    from sklearn.datasets import load_digits

    parts = digits.train, digits.val, digits.test
    assert torch.cat([p.labels for p in parts]).tolist() == load_digits().target.tolist()
    images = torch.cat([p.images for p in parts])
    assert images.dtype == torch.uint8
    assert images.shape == (1797, 1, 28, 28)
    assert set(digits.val.labels.tolist()) == set(range(10))


def test_digits_show_what_they_showed_before_they_were_scaled(digits):
    from sklearn.datasets import load_digits

    small = torch.tensor(load_digits().images[:100]) * 255 / 16
    shrunk = F.adaptive_avg_pool2d(digits.train.images[:100, 0].double(), 8)
    assert np.corrcoef(shrunk.flatten(), small.flatten())[0, 1] > 0.97
    assert shrunk.mean().item() == pytest.approx(small.mean().item(), rel=0.02)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no data set 'minst'; there are auto, mnist, digits"):
        data.load("minst")


# --- splits ------------------------------------------------------------------------------------


def test_batches_come_in_order_normalised_and_again(digits):
    x, y = (torch.cat(part) for part in zip(*digits.train, strict=True))
    assert torch.equal(y, digits.train.labels)
    assert x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(x * digits.val.std + digits.val.mean, digits.train.images.float())
    again = torch.cat([x for x, _ in digits.train])
    assert torch.equal(x, again)


def test_a_split_counts_images_and_its_last_batch_is_short(split):
    assert len(split) == 50
    assert [len(y) for _, y in split] == [16, 16, 16, 2]
    assert [len(y) for _, y in split.head(20)] == [16, 4]
    assert torch.equal(split.head(20).images, split.images[:20])


@given(seed=st.integers(0, 2**32), shift=st.integers(0, 3), batch_size=st.integers(1, 60))
def test_an_epoch_shows_every_image_once_moved_by_at_most_the_shift(seed, shift, batch_size):
    """Against a loop that pads one image and cuts all its windows."""
    images = torch.arange(7 * 2 * 4 * 5, dtype=torch.uint8).reshape(7, 2, 4, 5)  # not square
    split = data.Split("train", images, torch.arange(7), mean=0.0, std=1.0)
    epoch = list(split.shuffled(batch_size, torch.Generator().manual_seed(seed), shift=shift))
    assert [len(y) for _, y in epoch] == [len(part) for part in torch.arange(7).split(batch_size)]
    labels = torch.cat([y for _, y in epoch]).tolist()
    assert sorted(labels) == list(range(7))
    for x, label in zip(torch.cat([x for x, _ in epoch]), labels, strict=True):
        padded = np.pad(images[label].numpy(), [(0, 0), (shift, shift), (shift, shift)])
        windows = [
            padded[:, down : down + 4, right : right + 5]
            for down in range(2 * shift + 1)
            for right in range(2 * shift + 1)
        ]
        assert any((x.numpy() == window).all() for window in windows)


def test_every_shift_is_as_likely_as_any_other():
    images = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    images[:, :, 1, 1] = 1
    split = data.Split("train", images, torch.zeros(9000).long(), mean=0.0, std=1.0)
    ((x, _),) = split.shuffled(9000, torch.Generator().manual_seed(0), shift=1)
    assert x.sum(0).flatten() == pytest.approx(np.full(9, 1000), abs=4 * math.sqrt(1000))


def test_equal_seeds_give_equal_epochs_and_the_next_epoch_differs(split):
    def epoch(generator):
        return torch.cat([x for x, _ in split.shuffled(16, generator, shift=1)])

    first, again = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    before = torch.get_rng_state()
    assert torch.equal(epoch(first), epoch(again))
    assert not torch.equal(epoch(first), epoch(torch.Generator().manual_seed(3)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_fingerprint_changes_with_a_pixel_and_with_a_label(split):
    before = split.fingerprint()
    assert split.fingerprint() == before
    split.images[3, 0, 2, 1] ^= 1
    pixel = split.fingerprint()
    split.labels[3] ^= 1
    assert len({before, pixel, split.fingerprint()}) == 3
