"""Folders of images as people have them: stray files, odd images, pipes, bombs, wrong sizes."""

import os
import socket
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import functional as vision

from pruning_lab import data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_LAB_CACHE", str(tmp_path / "cache"))


def pixels(mode: str, seed: int = 0, high: int = 6, wide: int = 5) -> Image.Image:
    """Noise in a mode of PIL."""
    noise = np.random.default_rng(seed).integers(0, 256, (high, wide, 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes, four images in train and two in test of each, RGB, 6 x 5."""
    root = tmp_path / "photos"
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for k in range(count):
                image = pixels("RGB", seed=10 * label + k)
                image.save(root / part / name / f"{k}.png")
    return root


def loaded(folder: Path, **options) -> data.Splits:
    return data.load(f"folder:{folder}", **options)


def streamed(monkeypatch, folder: Path, **options) -> data.Splits:
    with monkeypatch.context() as patch:
        patch.setattr(data.splits, "MEMORY_BYTES", 0)
        return loaded(folder, **options)


def fingerprints(splits: data.Splits) -> list[str]:
    return [part.fingerprint() for part in (splits.train, splits.val, splits.test)]


# --- what is no image and no class -------------------------------------------------------------


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        "train/cat/._000.png",
        "train/cat/.DS_Store",
        "train/cat/Thumbs.db",
        "train/cat/.ipynb_checkpoints/0-checkpoint.png",
        "train/.ipynb_checkpoints/0-checkpoint.png",
        "train/.DS_Store",
        "train/.git/0.png",
        "train/__MACOSX/._0.png",
        "train/README.txt",
        "train/cat/README.txt",
        ".pruning_lab/0.png",
    ],
)
def test_what_systems_and_tools_leave_behind_is_no_image_and_no_class(folder, name):
    expected = fingerprints(loaded(folder))
    put(folder / name, b"no image")
    splits = loaded(folder, broken=0)
    assert fingerprints(splits) == expected
    assert sorted(splits.train.labels.unique().tolist()) == [0, 1]


def test_folders_in_a_class_and_links_to_folders_are_read_as_torchvision_does(
    folder, tmp_path, monkeypatch
):
    put(folder / "train" / "cat" / "more" / "a.PNG", (folder / "test/cat/1.png").read_bytes())
    (tmp_path / "elsewhere").mkdir()
    pixels("RGB", 40).save(tmp_path / "elsewhere" / "b.png")
    (folder / "train" / "dog" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "val").symlink_to(folder / "test")
    theirs = datasets.ImageFolder(str(folder / "train")).samples
    train = streamed(monkeypatch, folder, size=5).train
    files = [str(train.root / name) for name in train.images]
    assert set(zip(files, train.labels.tolist(), strict=True)) == set(theirs)
    assert len(theirs) == 10


def test_a_link_to_a_folder_above_is_entered_once(folder):
    (folder / "train" / "cat" / "again").symlink_to(folder / "train" / "cat")
    (folder / "train" / "cat" / "up").symlink_to(folder / "train")
    splits = loaded(folder)
    assert splits.train.n + splits.val.n == 12  # 4 cats, 4 dogs, and those of train/cat/up/dog


# --- what PIL opens, the network takes ---------------------------------------------------------

CASES = {
    "grey.png": ("L", {}),
    "bilevel.png": ("1", {}),
    "palette.png": ("P", {}),
    "palette.gif.png": ("P", {"format": "GIF"}),  # named otherwise than it is
    "rgba.png": ("RGBA", {}),
    "la.png": ("LA", {}),
    "cmyk.jpg": ("CMYK", {}),
    "ycbcr.jpg": ("YCbCr", {}),
    "grey.jpg": ("L", {}),
    "cmyk.tif": ("CMYK", {}),
    "rgba.webp": ("RGBA", {"lossless": True}),
    "animated.png": ("RGB", {"save_all": True, "append_images": [pixels("RGB", 9)]}),
    "animated.webp": ("RGB", {"save_all": True, "append_images": [pixels("RGB", 9)]}),
    "pages.tiff": ("RGB", {"save_all": True, "append_images": [pixels("RGB", 9)]}),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stream", [False, True])
def test_an_image_of_any_mode_is_rgb_as_torchvision_has_it(folder, monkeypatch, name, stream):
    mode, options = CASES[name]
    path = folder / "test" / "cat" / f"0{name}"
    (folder / "test" / "cat" / "0.png").unlink()
    pixels(mode, 3).save(path, **options)
    splits = streamed(monkeypatch, folder, size=5) if stream else loaded(folder, size=5)
    x, y = next(iter(splits.test.renormalised(0.0, 1.0)))
    shown = vision.center_crop(vision.resize(pil_loader(str(path)), 5), 5)
    assert torch.equal(x[0], vision.pil_to_tensor(shown).float())
    assert y[0] == 0


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((6, 5), 40_000, np.uint16)).save(path)


def floats(path: Path) -> None:
    Image.fromarray(np.ones((6, 5), np.float32)).save(path, format="TIFF")


def postscript(path: Path) -> None:
    pixels("RGB").save(path, format="EPS")


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def bomb(wide: int, high: int):
    """A PNG of few bytes that claims so many pixels."""

    def write(path: Path) -> None:
        size = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
        rows = zlib.compress(bytes(1_000_000))
        content = chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)

    return write


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loose(path: Path) -> None:
    path.symlink_to("nowhere.png")


def directory(path: Path) -> None:
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30 + 1)


UNUSABLE = {
    "sixteen bits": (sixteen_bits, r"more than 8 bits for each pixel, mode I;16; save it with 8"),
    "floats": (floats, r"more than 8 bits for each pixel, mode F; save it with 8"),
    "PostScript": (postscript, r"cannot be read as an image"),
    "bomb": (bomb(50_000, 50_000), r"more than 134,217,728 pixels"),
    "small bomb": (bomb(12_000, 12_000), r"12,000 x 12,000 pixels; 1 to 134,217,728 are decoded"),
    "long": (bomb(1, 30_000_000), r"too long and thin for its size, 1 x 30000000 pixels"),
    "no pixels": (lambda path: path.write_bytes(b"P5 0 6 255 "), r"cannot be read as an image"),
    "pipe": (pipe, r"not a regular file"),
    "socket": (listening, r"not a regular file"),
    "device": (device, r"not a regular file"),
    "loose link": (loose, r"cannot be read: No such file or directory"),
    "huge": (huge, r"more than 1,073,741,824 bytes"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_left_out_in_memory_and_again_from_the_cache(folder, case):
    make, why = UNUSABLE[case]
    path = folder / "test" / "dog" / "1.png"
    path.unlink()
    make(path)
    for _ in range(2):
        splits = loaded(folder, size=5, broken=0.01)
        assert splits.test.n == 3
        assert "LEFT OUT 1 of 12: test/dog/1.png (" in splits.origin
    with pytest.raises(ValueError, match=rf"^{path} \({why}\); of 12 images 0 may be left out"):
        loaded(folder, size=5, broken=0)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_is_left_out_of_a_stream(folder, monkeypatch, case, workers):
    make, why = UNUSABLE[case]
    path = folder / "test" / "dog" / "1.png"
    path.unlink()
    make(path)
    test = replace(streamed(monkeypatch, folder, size=5).test, workers=workers, batch_size=2)
    assert len(test.fingerprint()) == 64
    with pytest.warns(UserWarning, match=rf"^left out: {path} \({why}\)$"):
        batches = list(test)
    assert [len(y) for _, y in batches] == [2, 1]


def test_without_a_size_a_pipe_is_an_image_that_cannot_be_used(folder):
    path = folder / "train" / "cat" / "0.png"
    path.unlink()
    os.mkfifo(path)
    assert "LEFT OUT 1 of 12: train/cat/0.png (not a regular file)" in loaded(folder).origin


def test_a_part_in_which_nothing_can_be_used_is_named(folder):
    for path in folder.glob("test/*/*.png"):
        sixteen_bits(path)
    with pytest.raises(ValueError, match=r"^no image of test can be used: .*mode I;16"):
        loaded(folder, broken=1)


def test_an_unreadable_file_is_left_out(folder):
    path = folder / "test" / "dog" / "1.png"
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "test/dog/1.png (cannot be read: Permission denied)" in loaded(folder).origin


# --- what is no folder of images ---------------------------------------------------------------


def no_train(root: Path) -> None:
    (root / "train").rename(root / "training")


def train_is_a_pipe(root: Path) -> None:
    no_train(root)
    os.mkfifo(root / "train")


def train_is_a_device(root: Path) -> None:
    no_train(root)
    (root / "train").symlink_to("/dev/zero")


def a_class_of_pictures_of_another_kind(root: Path) -> None:
    put(root / "train" / "cow" / "0.gif", b"GIF89a")
    put(root / "test" / "cow" / "0.gif", b"GIF89a")


def a_hidden_image_only(root: Path) -> None:
    put(root / "train" / "cow" / "._0.png", b"")
    put(root / "test" / "cow" / "._0.png", b"")


def a_class_in_train_only(root: Path) -> None:
    put(root / "train" / "cow" / "0.png", (root / "train/cat/0.png").read_bytes())


def a_class_in_test_only(root: Path) -> None:
    put(root / "test" / "cow" / "0.png", (root / "train/cat/0.png").read_bytes())


def no_classes(root: Path) -> None:
    for path in (root / "test").iterdir():
        path.rename(root / f"test/.{path.name}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (no_train, r"photos needs the folder train and one or both of val and test, each with"),
        (train_is_a_pipe, r"photos needs the folder train and one or both of val and test"),
        (train_is_a_device, r"photos needs the folder train and one or both of val and test"),
        (a_class_of_pictures_of_another_kind, r"no images in \S*train for the classes cow; put"),
        (a_hidden_image_only, r"no images in \S*train for the classes cow; put some there"),
        (a_class_in_train_only, r"must hold the same classes, but only one of them has cow$"),
        (a_class_in_test_only, r"must hold the same classes, but only one of them has cow$"),
        (no_classes, r"^no classes in \S*test; it needs a folder of images for each class$"),
    ],
)
def test_a_folder_that_lacks_something_says_what(folder, change, says):
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        loaded(folder)


@pytest.mark.parametrize("make", [pipe, device, listening, loose])
def test_what_is_no_folder_is_refused_by_its_name(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match=r"^no folder '\S*/x' for the data 'folder:.*x'; "):
        loaded(tmp_path / "x")


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a\0b", "x" * 5000])
def test_a_path_that_cannot_be_is_no_folder(path):
    with pytest.raises(FileNotFoundError, match=r"^no folder .*; type folder:PATH"):
        loaded(path)


def test_mnist_whose_files_are_pipes_is_not_there(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        os.mkfifo(tmp_path / "MNIST" / "raw" / f"{name}-ubyte")
    with pytest.raises((FileNotFoundError, ValueError), match=r"MNIST"):
        data.load("mnist", root=tmp_path)


# --- sizes and devices -------------------------------------------------------------------------

SIZES = [0, -1, 4097, 100_000, 10**30, 1.5, 64.0, float("nan"), float("inf"), "64"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["shapes", "imagenet", "imagenette", "folder"])
def test_a_size_that_cannot_be_is_refused_before_anything_is_read(folder, name, size):
    name = f"folder:{folder}" if name == "folder" else name
    with pytest.raises(ValueError, match=rf"^size is a number of pixels, 1 to 4,096, got {size}$"):
        data.load(name, root=folder, size=size)


def test_more_shapes_than_memory_may_hold_are_refused():
    says = r"^5,000 images of 4096 x 4096 take 234\.4 GB, and 4 may be in memory; give a smaller "
    with pytest.raises(ValueError, match=says):
        data.load("shapes", size=4096)


def test_the_largest_size_is_streamed(folder):
    splits = loaded(folder, size=4096)
    assert isinstance(splits.train, data.Split)  # 12 images of 50 MB
    assert splits.train.shape == (3, 4096, 4096)
    assert next(iter(splits.test))[0].shape == (1, 3, 4096, 4096)


@pytest.mark.parametrize("device", ["meta", "nonsense", "cpux", "", "cuda:99", 3.5, None, "xla"])
def test_a_device_that_is_not_there_is_refused_by_name(device):
    with pytest.raises(ValueError, match=rf"^no device '{device}' for images; give cpu, or cuda"):
        data.load("mnist-5k", device=device)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_device_that_is_there_is_taken(device):
    assert data.load("mnist-5k", device=device).train.device == torch.device("cpu")


def test_loading_warns_of_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded(folder)
