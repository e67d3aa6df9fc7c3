"""Photos from the cache and from a stream are what torchvision makes of them, one at a time."""

import math
import multiprocessing
import os
import shutil
import signal
import socket
import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import datasets, transforms
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import functional as vision

from pruning_lab import data, evaluation
from pruning_lab.data import shapes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the cache of whoever runs it."""
    monkeypatch.delenv("PRUNING_LAB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


def photo(mode: str, seed: int, *, wide: int, high: int) -> Image.Image:
    """Something smooth, as photos are."""
    channels = len(mode)
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    layers = [Image.fromarray(noise[..., c]).resize((wide, high), 3) for c in range(channels)]
    return Image.merge(mode, layers) if channels > 1 else layers[0]


MODES = ("RGB", "RGB", "L", "CMYK")
BROKEN = "train/n01/n01_5.JPEG"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """40 JPEGs in ImageNet's layout: tall and wide ones, RGB, grey and CMYK, and one truncated."""
    root = tmp_path_factory.mktemp("made") / "imagenet"
    seed = 0
    for part, count in (("train", 14), ("val", 6)):
        for name in ("n01", "n02"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                size = {"wide": 40 + 7 * (seed % 5), "high": 36 + 5 * (seed % 7)}
                path = root / part / name / f"{name}_{number}.JPEG"
                photo(MODES[seed % 4], seed, **size).save(path, quality=90)
    broken = root / BROKEN
    broken.write_bytes(broken.read_bytes()[:-200])
    return root


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy to write in."""
    return Path(shutil.copytree(made, tmp_path / "imagenet"))


def streamed(monkeypatch, folder, **options) -> data.Splits:
    with monkeypatch.context() as patch:
        patch.setattr(data.splits, "MEMORY_BYTES", 0)
        return data.load(f"folder:{folder}", **options)


def as_torchvision_shows(path: Path, size: int, short: int) -> torch.Tensor:
    """uint8 (3, size, size)."""
    fit = transforms.Compose([transforms.Resize(short), transforms.CenterCrop(size)])
    return vision.pil_to_tensor(fit(pil_loader(str(path))))


def in_turns(folder: Path, part: str, *, tenth: bool = False, rest: bool = False) -> list[Path]:
    """The files of a part as we order them, by hand: both classes take turns."""
    lists = [
        [folder / part / name / f for f in sorted(os.listdir(folder / part / name))]
        for name in ("n01", "n02")
    ]
    if tenth:
        lists = [paths[::10] for paths in lists]
    if rest:
        lists = [[path for k, path in enumerate(paths) if k % 10] for paths in lists]
    return [path for pair in zip(*lists, strict=True) for path in pair]


def pixels(split) -> tuple[torch.Tensor, torch.Tensor]:
    """All images, 0 ... 255, and labels, as iterating gives them."""
    images, labels = zip(*split.renormalised(0.0, 1.0), strict=True)
    return torch.cat(images), torch.cat(labels)


# --- cached and streamed -----------------------------------------------------------------------


def check(splits, folder, size, short):
    expected = {
        "train": in_turns(folder, "train", rest=True),
        "val": in_turns(folder, "train", tenth=True),
        "test": in_turns(folder, "val"),
    }
    for part, paths in expected.items():
        images, labels = pixels(getattr(splits, part))
        paths = [path for path in paths if not str(path).endswith(BROKEN)]
        shown = torch.stack([as_torchvision_shows(path, size, short) for path in paths])
        assert torch.equal(images, shown.float())
        assert labels.tolist() == [int(path.parent.name == "n02") for path in paths]


def test_cached_images_are_torchvisions_of_every_mode_and_again_from_the_file(folder, monkeypatch):
    for cached in (False, True):
        with monkeypatch.context() as patch:
            if cached:
                patch.setattr(Image, "open", None)  # nothing is decoded any more
            splits = data.load(f"folder:{folder}", size=24)
        assert str(splits).startswith(
            f"folder:{folder}: 23 train / 4 val / 12 test images of 3 x 24 x 24, from {folder}, "
            f"where val is test; val is every tenth of train; LEFT OUT 1 of 40: {BROKEN} (cannot "
        )
        assert splits.origin.endswith(f"; cached in {folder}/.pruning_lab/24px.npy")
        check(splits, folder, 24, short=24)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:left out")
def test_imagenet_streams_as_torchvisions_evaluation_shows_it(made, workers):
    splits = data.load("imagenet", root=made.parent, size=21)
    assert "24 train / 4 val / 12 test images of 3 x 21 x 21" in str(splits)
    some = {
        part: replace(getattr(splits, part), batch_size=5, workers=workers)
        for part in ("train", "val", "test")
    }
    check(replace(splits, **some), made, 21, short=24)  # 256 / 224 of it


@pytest.mark.parametrize(("start", "step"), [(0, 2), (1, 2), (2, 1), (3, 1)])
def test_some_batches_of_a_stream_decode_no_others(folder, start, step):
    split = data.load("imagenet", root=folder.parent, size=21).test
    split = replace(split, batch_size=5, workers=0, broken=0.0)
    whole = list(split)
    needed = [name for k in range(start, 3, step) for name in split.images[5 * k : 5 * k + 5]]
    for name in set(split.images) - set(needed):
        (folder / name).write_bytes(b"reading this would be noticed")
    ours = list(split.batches(start, step))
    assert len(ours) == len(whole[start::step])
    for (x, y), (theirs, labels) in zip(ours, whole[start::step], strict=True):
        assert torch.equal(x, theirs)
        assert torch.equal(y, labels)


@pytest.mark.filterwarnings("ignore:left out")
def test_streamed_and_cached_are_equal_in_order_and_shuffled(folder, monkeypatch):
    cached, stream = data.load(f"folder:{folder}", size=24), streamed(monkeypatch, folder, size=24)
    assert isinstance(stream.test, data.Stream)
    check(stream, folder, 24, short=24)
    kinds = {"shift": 2, "flip": True, "colour": 0.2}
    same = replace(cached.test, mean=stream.test.mean, std=stream.test.std, axes=stream.test.axes)
    epochs = [
        list(part.shuffled(5, torch.Generator().manual_seed(1), **kinds))
        for part in (same, stream.test)
    ]
    assert len(epochs[0]) == 3
    for (x, y), (theirs, labels) in zip(*epochs, strict=True):
        assert torch.equal(y, labels)
        assert torch.equal(x, theirs)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_random_crop_of_a_stream_is_cut_from_the_whole_photo(made):
    splits = data.load("imagenet", root=made.parent, size=21)
    split = splits.test.renormalised(0.0, 1.0)
    batches = list(split.shuffled(5, torch.Generator().manual_seed(3), crop=0.2))
    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(12, generator=generator)
    torch.randint(1, (2, 12), generator=generator)
    numbers = torch.rand(12, 22, generator=generator)
    paths = in_turns(made, "val")
    for image, place, row in zip(torch.cat([x for x, _ in batches]), order, numbers, strict=True):
        whole = pil_loader(str(paths[place]))
        box = data.augment.boxes(row[None], whole.height, whole.width, 0.2)[0].tolist()
        expected = vision.pil_to_tensor(vision.resized_crop(whole, *box, [21, 21]))
        assert torch.equal(image, expected.float())
    assert torch.equal(torch.cat([y for _, y in batches]), split.labels[order])


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("options", [{}, {"shift": 1, "flip": True, "crop": 0.3, "colour": 0.1}])
def test_parts_of_a_streams_batches_make_the_whole_bit_for_bit(made, options):
    train = data.load("imagenet", root=made.parent, size=21).train

    def epoch(share):
        return list(train.shuffled(9, torch.Generator().manual_seed(0), share=share, **options))

    for whole, *parts in zip(epoch((0, 1)), epoch((0, 2)), epoch((1, 2)), strict=True):
        for one, all_ in zip(zip(*parts, strict=True), whole, strict=True):
            assert torch.equal(torch.cat(one), all_)


def test_a_network_is_evaluated_on_a_stream_without_a_trace(made, everything_of):
    torch.manual_seed(0)
    chain = nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(3 * 21 * 21, 2)))
    split = replace(data.load("imagenet", root=made.parent, size=21).test, batch_size=5)
    before = everything_of(chain)
    accuracy = evaluation.evaluate(chain, split)
    assert everything_of(chain) == before
    x = torch.stack([as_torchvision_shows(path, 21, 24) for path in in_turns(made, "val")])
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    right = chain(vision.normalize(x / 255, mean, std)).argmax(1) == torch.arange(12) % 2
    assert accuracy.hits.tolist() == right.tolist()


def test_a_huge_photo_is_decoded_no_finer_than_of_use(tmp_path):
    for name in ("train/a/1.jpg", "train/a/2.jpg", "test/a/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photo("RGB", 1, wide=1200, high=900).save(tmp_path / name)
    (ours,) = data.load(f"folder:{tmp_path}", size=24).test.images.float()
    theirs = as_torchvision_shows(tmp_path / "test/a/1.jpg", 24, 24).float()
    assert (ours - theirs).abs().mean() < 1


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("read_before", [False, True])
def test_pictures_of_a_stream_are_those_that_its_batches_show(made, read_before):
    split = data.load("imagenet", root=made.parent, size=21).train
    place = split.images.index(BROKEN)
    split.pictures([0, place - 1, 23])
    assert split.left_out == {}  # only these were decoded
    if read_before:
        list(split)
    paths = [path for path in in_turns(made, "train", rest=True) if not path.match(BROKEN)]
    indices = [22, 0, place]
    for picture, index in zip(split.pictures(indices), indices, strict=True):
        expected = as_torchvision_shows(paths[index], 21, 24).permute(1, 2, 0)
        assert picture.dtype == np.uint8
        assert np.array_equal(picture, expected.numpy())
    assert list(split.left_out) == [BROKEN]


# --- broken images -----------------------------------------------------------------------------


def test_a_stream_names_a_broken_image_once_and_stops_past_the_share(made):
    split = data.load("imagenet", root=made.parent, size=21).train
    with pytest.warns(UserWarning, match=rf"^left out: .*{BROKEN} \(cannot be decoded: "):
        images, _ = pixels(split)
    assert len(images) == 23
    assert list(split.left_out) == [BROKEN]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(len(y) for _, y in split.shuffled(5, torch.Generator())) == 23
    strict = data.load("imagenet", root=made.parent, size=21, broken=0).train
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=rf"{BROKEN} .* of 24 images 0 may be left out"),
    ):
        list(strict)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_head_of_a_stream_is_refused_for_its_own_broken_images_only(folder):
    """Of 24 images 2 may be left out, of the first or the last 12 only 1."""
    last = "train/n02/n02_13.JPEG"
    (folder / last).write_bytes(b"no photo")
    split = data.load("imagenet", root=folder.parent, size=21, broken=0.05).train
    order = sorted(range(24), key=lambda k: split.images[k] in (BROKEN, last))
    files = tuple(split.images[k] for k in order)  # the two broken ones at the end
    split = replace(split, images=files, labels=split.labels[order], workers=0)
    assert len(pixels(split)[0]) == 22
    assert split.left_out.keys() == {BROKEN, last}
    assert len(pixels(split.head(12))[0]) == 12
    assert split.head(12).left_out == {}
    assert split.head(23).left_out.keys() == {files[22]}
    assert len(pixels(split.head(23))[0]) == 22


def test_palettes_and_transparency_become_rgb_as_pil_has_it(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        base = photo("RGB", 4, wide=20, high=18)
        base.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / part / "a" / "1.png")
        photo("RGBA", 5, wide=20, high=18).save(tmp_path / part / "a" / "2.png")
        photo("L", 6, wide=20, high=18).convert("LA").save(tmp_path / part / "a" / "3.png")
    splits = data.load(f"folder:{tmp_path}", size=16)
    paths = [tmp_path / "test" / "a" / f"{k}.png" for k in (1, 2, 3)]
    expected = torch.stack([as_torchvision_shows(path, 16, 16) for path in paths])
    assert torch.equal(splits.test.images, expected)


# --- the cache ---------------------------------------------------------------------------------


def cache_of(folder: Path, size: int = 24) -> Path:
    return folder / ".pruning_lab" / f"{size}px.npy"


def about_of(folder: Path) -> Path:
    return cache_of(folder).with_suffix(".json")


def loaded(folder: Path) -> tuple[str, str]:
    splits = data.load(f"folder:{folder}", size=24)
    return "".join(s.fingerprint() for s in (splits.train, splits.val, splits.test)), splits.origin


def test_the_cache_is_a_file_that_numpy_reads(folder):
    splits = data.load(f"folder:{folder}", size=24)
    images = np.load(cache_of(folder))
    ours = torch.cat([splits.train.images, splits.val.images, splits.test.images])
    assert np.array_equal(images, ours.numpy())


def flip_bit(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def flipped(mark: bytes, offset: int = 0):
    return lambda content: flip_bit(content, content.index(mark) + offset)


DAMAGES = [
    (cache_of, lambda c: b""),
    (cache_of, lambda c: c[:5]),
    (cache_of, lambda c: c[: len(c) // 2]),
    (cache_of, lambda c: c[:-1]),
    (cache_of, lambda c: c + b"\0"),
    (cache_of, lambda c: bytes(len(c))),
    (cache_of, lambda c: b"PK\3\4" + c[4:]),  # what numpy opens as an archive
    (cache_of, flipped(b"|u1")),
    (cache_of, flipped(b"shape", 9)),
    (cache_of, lambda c: flip_bit(c, len(c) - 1)),
    (cache_of, lambda c: flip_bit(c, len(c) // 2)),
    (about_of, lambda c: b""),
    (about_of, lambda c: c[:-3]),
    (about_of, lambda c: b"[]"),
    (about_of, lambda c: b'{"key": 1}'),
    (about_of, lambda c: b"[" * 100_000),
    (about_of, lambda c: b"\xff" + c),
    (about_of, flipped(b'"key": "', 12)),
    (about_of, flipped(b'"scale": [\n  [\n   ', 17)),  # a digit of the mean
    (about_of, flipped(b'"crc32": ', 9)),
]


@pytest.mark.parametrize(("damaged", "damage"), DAMAGES)
def test_a_damaged_cache_is_noticed_and_made_again(folder, damaged, damage):
    expected = loaded(folder)
    paths = cache_of(folder), about_of(folder)
    contents = [path.read_bytes() for path in paths]
    damaged(folder).write_bytes(damage(damaged(folder).read_bytes()))
    assert loaded(folder) == expected
    assert [path.read_bytes() for path in paths] == contents


@pytest.mark.parametrize("lost", [cache_of, about_of])
def test_half_of_a_cache_is_none(folder, lost):
    expected = loaded(folder)
    lost(folder).unlink()
    assert loaded(folder) == expected
    assert lost(folder).exists()


def test_images_beside_the_description_of_others_are_none(folder):
    """As a process leaves it that is killed between the two files."""
    loaded(folder)
    of_others = cache_of(folder).read_bytes()
    photo("RGB", 77, wide=40, high=40).save(folder / "val" / "n01" / "n01_0.JPEG")
    expected = loaded(folder)
    cache_of(folder).write_bytes(of_others)
    assert loaded(folder) == expected
    assert cache_of(folder).read_bytes() != of_others


@pytest.mark.parametrize("replaced", [cache_of, about_of])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_the_caches_place_is_not_read(folder, replaced, make):
    expected, _ = loaded(folder)
    replaced(folder).unlink()
    make(replaced(folder))
    assert loaded(folder)[0] == expected


def test_the_cache_does_not_outlive_the_bytes_of_an_image(folder):
    expected, _ = loaded(folder)
    os.utime(folder / "val" / "n01" / "n01_0.JPEG")
    assert loaded(folder)[0] == expected
    first, second = (folder / "val" / "n01" / f"n01_{k}.JPEG" for k in (0, 1))
    size = max(path.stat().st_size for path in (first, second))
    for path in (first, second):  # JPEG ends where it ends
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    before, times = loaded(folder)[0], first.stat()
    first.write_bytes(second.read_bytes())
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))  # same name, size and time
    after, _ = loaded(folder)
    assert after != before
    shown = data.load(f"folder:{folder}", size=24).test.images
    assert torch.equal(shown[0], as_torchvision_shows(second, 24, 24))


def test_what_changes_after_it_was_read_is_read_again_the_next_time(folder, tmp_path, monkeypatch):
    first, second = (folder / "val" / "n01" / f"n01_{k}.JPEG" for k in (0, 1))
    size = max(path.stat().st_size for path in (first, second))
    old, new = (path.read_bytes().ljust(size, b"\0") for path in (first, second))
    for path in (first, tmp_path / "old.JPEG"):
        path.write_bytes(old)
    opened, seen = Image.open, []

    def overwriting(file, **options):
        image = opened(file, **options)
        seen.append(file.name)
        if seen.count(str(first)) == 2:  # the first time, its header was looked at
            image.load()
            first.write_bytes(new)
        return image

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", overwriting)
        shown = data.load(f"folder:{folder}", size=24).test.images[0]
    assert torch.equal(shown, as_torchvision_shows(tmp_path / "old.JPEG", 24, 24))
    shown = data.load(f"folder:{folder}", size=24).test.images[0]
    assert torch.equal(shown, as_torchvision_shows(first, 24, 24))


def test_a_file_more_or_another_size_is_another_cache(folder):
    before = loaded(folder)[0]
    photo("RGB", 99, wide=40, high=40).save(folder / "train" / "n02" / "n02_99.JPEG")
    assert loaded(folder)[0] != before
    for suffix in (".npy", ".json"):  # under another's name
        shutil.copy(cache_of(folder).with_suffix(suffix), cache_of(folder, 16).with_suffix(suffix))
    assert data.load(f"folder:{folder}", size=16).train.shape == (3, 16, 16)
    assert {path.name for path in cache_of(folder).parent.iterdir()} == {
        "16px.json",
        "16px.npy",
        "24px.json",
        "24px.npy",
    }


def test_what_is_written_into_loaded_images_stays_in_this_process(folder):
    expected = loaded(folder)
    content = cache_of(folder).read_bytes()
    data.load(f"folder:{folder}", size=24).train.images.zero_()
    assert cache_of(folder).read_bytes() == content
    assert loaded(folder) == expected


def test_where_the_folder_cannot_be_written_the_users_cache_is_and_else_it_says_so(
    folder, tmp_path, monkeypatch
):
    (folder / ".pruning_lab").write_text("a file, where the folder should be")
    expected, origin = loaded(folder)
    (cached,) = (tmp_path / "user" / "pruning_lab").glob("*.npy")
    assert origin.endswith(f"; cached in {cached}")
    assert loaded(folder) == (expected, origin)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".pruning_lab"))
    again, origin = loaded(folder)
    assert again == expected
    assert "; to be decoded again each time, as no cache can be written (" in origin
    monkeypatch.setenv("PRUNING_LAB_CACHE", str(tmp_path / "named"))
    assert loaded(folder)[0] == expected
    assert {path.suffix for path in (tmp_path / "named").iterdir()} == {".npy", ".json"}


def start(work, *arguments) -> multiprocessing.Process:
    """A process of its own that does `work`."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def load_and_tell(folder: Path, told: Path) -> None:
    told.write_text(" ".join(loaded(folder)))


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_process_killed_while_it_writes_leaves_nothing_that_is_ever_read(folder, moment):
    def killed():
        setattr(os, moment, die)
        loaded(folder)

    process = start(killed)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (litter,) = (folder / ".pruning_lab").iterdir()
    litter.write_bytes(bytes(litter.stat().st_size))  # whoever read it would see black images
    expected, _ = loaded(folder)
    check(data.load(f"folder:{folder}", size=24), folder, 24, short=24)
    assert litter.exists()  # it might be of a process that is still at it
    os.utime(litter, (0, 0))
    cache_of(folder).unlink()
    assert loaded(folder)[0] == expected
    assert not litter.exists()


def test_two_processes_may_build_the_cache_at_once(folder, tmp_path):
    told = [tmp_path / "one", tmp_path / "two"]
    for process in [start(load_and_tell, folder, path) for path in told]:
        process.join(60)
    assert [path.read_text() for path in told] == 2 * [" ".join(loaded(folder))]
    expected = {cache_of(folder), about_of(folder)}
    assert set(cache_of(folder).parent.iterdir()) == expected


def test_a_full_disk_costs_the_cache_and_nothing_else(folder, tmp_path):
    """A limit on the size of files stops a write in its middle, as a full disk does."""
    resource = pytest.importorskip("resource")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        load_and_tell(folder, tmp_path / "told")

    start(limited).join(60)
    fingerprint, _, origin = (tmp_path / "told").read_text().partition(" ")
    assert "; to be decoded again each time, as no cache can be written (" in origin
    assert "could not be written: File too large; name a place where it may be written" in origin
    left = [*(folder / ".pruning_lab").iterdir(), *(tmp_path / "user" / "pruning_lab").iterdir()]
    assert left == []
    assert fingerprint == loaded(folder)[0]


# --- folders by name ---------------------------------------------------------------------------


def test_a_folder_too_large_for_memory_streams_with_a_size_and_says_so_without(
    tmp_path, monkeypatch
):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        for k in range(3):
            photo("RGB", k, wide=20, high=18).save(tmp_path / part / "a" / f"{k}.png")
    monkeypatch.setattr(data.splits, "MEMORY_BYTES", 5 * 3 * 20 * 18)
    with pytest.raises(ValueError, match=r"6 images of 20 x 18 take .* \(--size 18\)$"):
        data.load(f"folder:{tmp_path}")
    assert isinstance(data.load(f"folder:{tmp_path}", size=18).train, data.Stream)
    assert isinstance(data.load(f"folder:{tmp_path}", size=16).train, data.Split)


@pytest.mark.filterwarnings("ignore:left out")
def test_a_stream_answers_as_a_split_does(made):
    train = data.load("imagenet", root=made.parent).train
    assert (train.n, train.shape, train.name) == (24, (3, 224, 224), "train")
    few = train.head(3)
    assert few.n == 3
    before = torch.get_rng_state()
    assert torch.equal(next(iter(few))[1], torch.tensor([0, 1, 0]))
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(train) == repr(data.load("imagenet", root=made.parent).train)
    assert repr(train) != repr(train.renormalised(0.0, 1.0))


def test_a_streams_fingerprint_is_of_names_sizes_and_what_is_shown(folder):
    def fingerprint(**options):
        return data.load("imagenet", root=folder.parent, **options).train.fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(size=64) != first
    path = folder / "train" / "n01" / "n01_1.JPEG"
    path.write_bytes(path.read_bytes() + b"\0")
    second = fingerprint()
    path.rename(path.with_name("n01_1b.JPEG"))
    assert len({first, second, fingerprint()}) == 3


def test_imagenettes_val_is_test_and_every_tenth_of_train_val_at_160(made, tmp_path):
    (tmp_path / "imagenette2-160").symlink_to(made)
    splits = data.load("imagenette", root=tmp_path, size=24)
    check(splits, made, 24, short=24)
    shutil.rmtree(made / ".pruning_lab")
    assert data.load("photos", root=tmp_path).train.shape == (3, 160, 160)
    shutil.rmtree(made / ".pruning_lab")


def test_the_real_imagenette_is_torchvisions(monkeypatch):
    root = Path(os.environ.get("PRUNING_LAB_DATA", Path(__file__).parents[1] / "data"))
    if not (root / "imagenette2-160").is_dir():
        pytest.skip("Imagenette is not there; set PRUNING_LAB_DATA to what holds imagenette2-160/")
    monkeypatch.setattr(data.splits, "MEMORY_BYTES", 0)
    splits = data.load("imagenette", root=root)
    parts = {part: datasets.Imagenette(root, part, "160px")._samples for part in ("train", "val")}
    ours = {
        (str(split.root / name), label)
        for split in (splits.train, splits.val)
        for name, label in zip(split.images, split.labels.tolist(), strict=True)
    }
    assert splits.train.n + splits.val.n == len(ours) == 9469
    assert ours == set(parts["train"])
    assert splits.test.n == len(parts["val"]) == 3925
    fifth = datasets.Imagenette(root, "val", "160px")[0][0]  # the first of the first class
    assert torch.equal(pixels(splits.test.head(1))[0][0], vision.pil_to_tensor(fifth).float())
    assert splits.val.head(20).labels.tolist() == 2 * list(range(10))


@pytest.fixture
def offline(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("imagenette", {}, r"no Imagenette in .*imagenette2-160; .* --download .*, or take shapes"),
        ("imagenette", {"download": True}, "Imagenette could not be fetched .*, or take shapes"),
        ("imagenet", {}, r"no ImageNet in .*imagenet; put train/CLASS/\*.JPEG .* take imagenette"),
        (
            "mnist-5k",
            {"size": 32},
            "the images of mnist-5k are 28 x 28, got size 32; leave size out",
        ),
        ("mnist", {"size": 32}, "the images of mnist are 28 x 28, got size 32"),
        ("shapes", {"size": 0}, "size is a number of pixels, 1 to 4,096, got 0"),
        ("shapes", {"broken": 5}, "broken is a fraction of the images, 0 to 1, got 5"),
    ],
)
def test_what_is_not_there_is_answered_with_what_to_type(tmp_path, offline, name, options, says):
    with pytest.raises((OSError, ValueError), match=says):
        data.load(name, root=tmp_path / "data", **options)


# --- shapes ------------------------------------------------------------------------------------


def test_shapes_stand_in_for_photos_and_say_so_loudly(tmp_path):
    splits = data.load("photos", root=tmp_path)
    assert str(splits).startswith(
        "shapes: 3,600 train / 400 val / 1,000 test images of 3 x 64 x 64, NO PHOTOS: shapes drawn "
        f"on the spot, since {tmp_path}/imagenette2-160 is not there"
    )
    for split in (splits.train, splits.val, splits.test):
        assert torch.equal(split.labels.bincount(), torch.full((10,), split.n // 10))


def test_other_seeds_and_sizes_draw_other_shapes():
    images, labels = shapes.draw(30, 32, seed=0)
    assert images.shape == (30, 3, 32, 32)
    assert torch.equal(labels, torch.arange(30) % 10)
    assert torch.equal(images, shapes.draw(30, 32, seed=0)[0])
    assert not torch.equal(images, shapes.draw(30, 32, seed=1)[0])
    assert len({image.numpy().tobytes() for image in images}) == 30


def test_the_shapes_are_as_large_as_geometry_says():
    axis = torch.linspace(-1.2, 1.2, 1201)
    x, y = axis[None].expand(1201, -1), axis[:, None].expand(-1, 1201)
    area = {name: (f(x, y) < 0).float().mean().item() * 2.4**2 for name, f in shapes.SHAPES.items()}
    disc = math.pi * 0.9**2
    assert area["disc"] == pytest.approx(disc, rel=0.01)
    assert area["ring"] == pytest.approx(math.pi * (0.9**2 - 0.5**2), rel=0.01)
    assert area["square"] == pytest.approx(1.56**2, rel=0.01)
    assert area["frame"] == pytest.approx(1.58**2 - 0.9**2, rel=0.01)
    assert area["triangle"] == pytest.approx(3 * math.sqrt(3) / 4, rel=0.2)
    assert area["cross"] == pytest.approx(2 * 1.9 * 0.56 - 0.56**2, rel=0.01)
    assert area["stripes"] == pytest.approx(disc / 2, rel=0.1)
    assert area["checks"] == pytest.approx(disc / 2, rel=0.15)
    assert all((f(x, y)[[0, -1]] > 0).all() for f in shapes.SHAPES.values())  # within the frame
