"""Images as tensors on the device: decoded once, split in three, augmented in batches.

Looked for in the folder of the environment variable PRUNING_LAB_DATA, else in `data/`. Nothing is
downloaded unless asked; `digits` needs no file at all, and `folder:PATH` reads images of your own.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pruning_lab import files


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth; two splits are two
class Split:
    """Images and labels of one split. Iterating gives batches in order, always the same ones.

    images: uint8 (N, C, H, W); labels: int64 (N,). What comes out is float (N, C, H, W), normalised
    to mean 0 and std 1 of the training images. `len(split)` counts images.
    """

    name: str  # "train", "val" or "test"
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    mean: float  # of the training pixels, 0 ... 255
    std: float
    batch_size: int = 500

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield self.normalise(self.images[part]), self.labels[part]

    def shuffled(
        self, batch_size: int, generator: torch.Generator, *, shift: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order, each image moved by up to `shift` pixels both ways.

        The generator (on the CPU) decides everything, so equal seeds give equal epochs.
        """
        count, device = len(self), self.images.device
        order = torch.randperm(count, generator=generator).to(device)
        offsets = torch.randint(2 * shift + 1, (2, count), generator=generator).to(device)
        for start in range(0, count, batch_size):
            part = slice(start, start + batch_size)
            chosen = order[part]
            images = self.images.index_select(0, chosen)  # on a CPU 5 times as fast as [chosen]
            if shift:
                images = _shifted(images, offsets[:, part], shift)
            yield self.normalise(images), self.labels[chosen]

    def head(self, count: int) -> "Split":
        """The first `count` images, for a quick look."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean).div_(self.std)

    def fingerprint(self) -> str:
        """SHA-256 of the pixels and labels: two runs with the same one saw the same data."""
        return files.sha256(*(t.cpu().contiguous().numpy() for t in (self.images, self.labels)))


@dataclass(frozen=True)
class Splits:
    """Train to learn from, val to choose by, test to report once."""

    name: str
    train: Split
    val: Split
    test: Split
    origin: str  # one line: where the images come from

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.train.images.shape[1:]))
        counts = f"{len(self.train):,} train / {len(self.val):,} val / {len(self.test):,} test"
        return f"{self.name}: {counts} images of {shape}, {self.origin}"


def load(
    name: str = "auto",
    *,
    root: str | Path | None = None,
    device: str | torch.device = "cpu",
    download: bool = False,
) -> Splits:
    """The splits of `mnist`, `digits` or `folder:PATH`.

    `auto` takes mnist where it is, else digits. A folder of one's own holds PATH/train/CLASS/IMAGE,
    and PATH/val, PATH/test or both likewise.
    Raises FileNotFoundError where the files are not there, ValueError for an unknown name.
    """
    if name.startswith("folder:"):
        return _load_folder(name, torch.device(device))
    root = Path(root if root is not None else os.environ.get("PRUNING_LAB_DATA", "data"))
    if name == "auto":
        name = "mnist" if download or _mnist_folder(root).is_dir() else "digits"
        if name == "digits":
            return _digits(device, f"scikit-learn's, since {_mnist_folder(root)} is not there")
    if name not in LOADERS:
        raise ValueError(f"no data set {name!r}; there are auto, {', '.join(LOADERS)}, folder:PATH")
    return LOADERS[name](root, torch.device(device), download)


def _load_mnist(root: Path, device: torch.device, download: bool) -> Splits:
    """MNIST through torchvision, in its own layout; the last 5,000 training images are val."""
    from torchvision import datasets  # slow to import, and digits never needs it

    folder = _mnist_folder(root)

    def read(*, train: bool) -> tuple[Tensor, Tensor]:
        try:
            part = datasets.MNIST(root, train=train, download=download)
        except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
            if len(list(folder.glob("*-ubyte"))) == 4:
                raise broken(f"{type(error).__name__} {error}") from None
            if download:
                raise ConnectionError(
                    f"MNIST could not be fetched ({error}); check the connection, put its four "
                    f"files into {folder} by hand, or take digits"
                ) from None
            raise FileNotFoundError(
                f"no MNIST in {folder}; set PRUNING_LAB_DATA to the folder that holds MNIST/, "
                f"or fetch it with --download (download=True), or take digits"
            ) from None
        if part.data.shape != (len(part.targets), 28, 28):
            raise broken(f"{tuple(part.data.shape)} pixels and {len(part.targets)} labels")
        return part.data[:, None], part.targets

    def broken(why: str) -> ValueError:
        return ValueError(
            f"the MNIST files in {folder} are broken: {why}; delete them and fetch them anew "
            f"with --download (download=True)"
        )

    (images, labels), test = read(train=True), read(train=False)
    if len(images) <= 5000:
        raise broken(f"{len(images):,} training images, of which val takes 5,000")
    cut = len(images) - 5000
    return _splits(
        "mnist",
        f"from {folder}",
        device,
        train=(images[:cut], labels[:cut]),
        val=(images[cut:], labels[cut:]),
        test=test,
    )


def _load_digits(root: Path, device: torch.device, download: bool) -> Splits:
    return _digits(device, "scikit-learn's, which need no file")


def _digits(device: str | torch.device, origin: str) -> Splits:
    """1,797 real handwritten digits of 8 x 8 in 17 greys, scaled to 28 x 28.

    The images come writer after writer. The last fifth is test and the last tenth of the rest val,
    so that a network is judged on hands it has not seen.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images.astype(np.float32))[:, None]  # (N, 1, 8, 8), 0 ... 16
    large = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    images = (large * (255 / 16)).round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    test, val = round(0.8 * len(images)), round(0.72 * len(images))
    return _splits(
        "digits",
        origin,
        torch.device(device),
        train=(images[:val], labels[:val]),
        val=(images[val:test], labels[val:test]),
        test=(images[test:], labels[test:]),
    )


# ------------------------------------------------------------------------------ folders of images

_Sample = tuple[str, int]  # a file and its label


def _load_folder(name: str, device: torch.device) -> Splits:
    """Images of one size as torchvision's ImageFolder lays them out, labelled in its order.

    With both val and test in the folder, each is what it is called. With one of them, that one is
    test, and val is every tenth image of each training class. Grey where every image is grey, else
    RGB. All is decoded at once and held in memory, so this is for sets that fit there.
    """
    root = Path(name.removeprefix("folder:")).expanduser()
    if name == "folder:" or not root.is_dir():
        raise FileNotFoundError(
            f"no folder {str(root)!r} for the data {name!r}; type folder:PATH, where PATH/train "
            f"holds a folder of images for each class"
        )
    samples, origin = _split_samples(root)
    shape = _common_shape([path for part in samples.values() for path, _ in part], root)
    parts = {part: _decode_all(some, shape) for part, some in samples.items()}
    return _splits(name, origin, device, **parts)


def _split_samples(root: Path) -> tuple[dict[str, list[_Sample]], str]:
    """The files of train, val and test, and a line about where they come from."""
    held_out = [part for part in ("val", "test") if (root / part).is_dir()]
    if not (root / "train").is_dir() or not held_out:
        raise FileNotFoundError(
            f"{root} needs the folder train and one or both of val and test, each with a folder "
            f"of images for each class (train/CLASS/IMAGE)"
        )
    classes, train = _list_images(root / "train")
    samples = {"train": train}
    for part in held_out:
        theirs, samples[part] = _list_images(root / part)
        if odd := sorted({*classes} ^ {*theirs}):
            raise ValueError(
                f"{root / 'train'} and {root / part} must hold the same classes, but only one of "
                f"them has {_some(odd)}"
            )
    if len(held_out) == 2:
        return samples, f"from {root}"
    (only,) = held_out
    kept, val = _every_tenth(train, classes, root)
    return (
        {"train": kept, "val": val, "test": samples[only]},
        f"from {root}, where {only} is test; val is every tenth of train",
    )


def _list_images(folder: Path) -> tuple[list[str], list[_Sample]]:
    """The classes of a folder, and its files with their labels, in torchvision's order."""
    from torchvision import datasets  # slow to import

    try:
        listed = datasets.ImageFolder(str(folder), allow_empty=True)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no classes in {folder}; it needs a folder of images for each class"
        ) from None
    full = {label for _, label in listed.samples}
    if empty := [name for label, name in enumerate(listed.classes) if label not in full]:
        raise FileNotFoundError(
            f"no images in {folder} for the classes {_some(empty)}; put some there, or delete "
            f"these folders (images are files named {', '.join(datasets.folder.IMG_EXTENSIONS)})"
        )
    return listed.classes, listed.samples


def _every_tenth(
    samples: Sequence[_Sample], classes: Sequence[str], root: Path
) -> tuple[list[_Sample], list[_Sample]]:
    """What stays and what goes: of each class every tenth, the first included."""
    kept, taken = [], []
    for label, name in enumerate(classes):
        own = [sample for sample in samples if sample[1] == label]
        if len(own) == 1:
            raise ValueError(
                f"{root / 'train' / name} holds a single image, and val takes one of each class; "
                f"put more there, or make both {root / 'val'} and {root / 'test'}"
            )
        taken += own[::10]
        kept += [sample for place, sample in enumerate(own) if place % 10]
    return kept, taken


def _common_shape(paths: Sequence[str], root: Path) -> tuple[int, int, int]:
    """(C, H, W) of all images, read off their headers."""
    modes, sizes = zip(*map(_header, paths), strict=True)
    first = sizes[0]
    for path, size in zip(paths, sizes, strict=True):
        if size != first:
            raise ValueError(
                f"all images must have one size, but {paths[0]} has {_by(first)} pixels and {path} "
                f"{_by(size)}; resize a copy of them all first, with ImageMagick: "
                f"mogrify -resize '{_by(first, 'x')}!' {root}/*/*/*"
            )
    width, height = first
    return 1 if set(modes) <= {"1", "L", "LA"} else 3, height, width


def _by(size: tuple[int, int], by: str = " x ") -> str:
    return by.join(map(str, size))


def _header(path: str) -> tuple[str, tuple[int, int]]:
    """Mode and (width, height) of an image that is not decoded yet."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, size = image.mode, image.size
    except Exception:  # PIL raises what its many readers raise
        raise _broken_image(path) from None
    if mode.startswith(("I", "F")):
        raise ValueError(
            f"{path} has more than 8 bits for each pixel (mode {mode}); save it with 8 bits"
        )
    return mode, size


def _decode_all(samples: Sequence[_Sample], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """uint8 (N, C, H, W) and labels."""
    images = np.empty((len(samples), *shape), np.uint8)
    decode = partial(_decode, mode="L" if shape[0] == 1 else "RGB")
    with ThreadPoolExecutor() as pool:  # PIL decodes without holding up Python's other threads
        for place, image in enumerate(pool.map(decode, [path for path, _ in samples])):
            images[place] = image
    return torch.from_numpy(images), torch.tensor([label for _, label in samples])


def _decode(path: str, mode: str) -> np.ndarray:
    """uint8 (C, H, W); transparency is left out, as torchvision does."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(mode))
    except Exception:
        raise _broken_image(path) from None
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def _broken_image(path: str) -> ValueError:
    return ValueError(f"{path} cannot be read as an image; replace it, or delete it")


def _some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


LOADERS: dict[str, Callable[[Path, torch.device, bool], Splits]] = {
    "mnist": _load_mnist,
    "digits": _load_digits,
}


def _shifted(images: Tensor, offsets: Tensor, shift: int) -> Tensor:
    """Images (N, C, H, W) moved by `shift` - offsets (2, N) pixels; zeros come in at the border."""
    height, width = images.shape[-2:]
    # (N, C, 2 * shift + 1, 2 * shift + 1, H, W): every position of the frame, as a view
    windows = F.pad(images, 4 * (shift,)).unfold(2, height, 1).unfold(3, width, 1)
    down, right = offsets
    return windows[torch.arange(len(images), device=images.device), :, down, right]


_BATCH_VALUES = 2**22  # of images in one batch of a split, at most: 16 MB as floats


def _mnist_folder(root: Path) -> Path:
    return root / "MNIST" / "raw"


def _splits(name: str, origin: str, device: torch.device, **parts: tuple[Tensor, Tensor]) -> Splits:
    """Three splits of uint8 (N, C, H, W) and labels, all normalised as the training ones."""
    pixels = parts["train"][0]
    levels = torch.arange(256, dtype=torch.float64)
    share = torch.bincount(pixels.reshape(-1), minlength=256) / pixels.numel()
    mean = float((share * levels).sum())
    std = float((share * (levels - mean) ** 2).sum().sqrt())
    batch = max(1, min(500, _BATCH_VALUES // pixels[0].numel()))
    made = {
        part: Split(part, images.to(device), labels.long().to(device), mean, std, batch)
        for part, (images, labels) in parts.items()
    }
    return Splits(name, made["train"], made["val"], made["test"], origin)
