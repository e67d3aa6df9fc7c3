"""Photos: Imagenette, ImageNet and folders of your own; decoded into memory, else streamed."""

import math
import os
from contextlib import suppress
from pathlib import Path

import torch

from pruning_lab.data import cache, shapes
from pruning_lab.data.decoding import BrokenImageError, check_broken, header, listed
from pruning_lab.data.folders import Files, split_files
from pruning_lab.data.request import Request, too_large
from pruning_lab.data.splits import Splits, in_memory
from pruning_lab.data.streams import streamed


def imagenette_folder(root: Path) -> Path:
    return root / "imagenette2-160"


def photos(request: Request) -> Splits:
    """Imagenette where it is; else shapes, said as loudly as `auto` says digits."""
    folder = imagenette_folder(request.root)
    if request.download or folder.is_dir():
        return imagenette(request)
    origin = f"NO PHOTOS: shapes drawn on the spot, since {folder} is not there"
    return shapes.splits(request, origin)


def imagenette(request: Request) -> Splits:
    """Imagenette as torchvision lays it out; its val is test, every tenth of train is val."""
    folder = imagenette_folder(request.root)
    if not folder.is_dir() and not request.download:
        raise FileNotFoundError(
            f"no Imagenette in {folder}; set PRUNING_LAB_DATA to the folder that holds "
            f"imagenette2-160/, or fetch it with --download (download=True), or take shapes"
        )
    if not folder.is_dir():
        from torchvision import datasets  # slow to import

        try:
            datasets.Imagenette(request.root, size="160px", download=True)
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"Imagenette could not be fetched ({error}); check the connection, unpack "
                f"imagenette2-160.tgz into {request.root} by hand, or take shapes"
            ) from None
    parts, origin = split_files(folder, held_out=["val"])
    return _split("imagenette", folder, parts, origin, request, request.size or 160, channels=3)


def imagenet(request: Request) -> Splits:
    """ImageNet as torchvision lays it out, streamed; its val is test, every tenth of train is val.

    Tested as is usual: the short side scaled to 256 and the middle 224 x 224 cut out; in proportion
    for other sizes.
    """
    folder = request.root / "imagenet"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no ImageNet in {folder}; put train/CLASS/*.JPEG and val/CLASS/*.JPEG there by hand, "
            f"as data/README.md says (nobody may offer it for download), or take imagenette"
        )
    parts, origin = split_files(folder, held_out=["val"])
    size = request.size or 224
    short = round(size * 256 / 224)
    return streamed("imagenet", folder, parts, origin, request, size, short=short)


def folder(name: str, request: Request) -> Splits:
    """Images of your own; grey where every image is grey, else RGB. Too large for memory: streamed.

    Without a size all must have one size, and fit into memory.
    """
    root = Path(os.path.expanduser(name.removeprefix("folder:")))
    if name == "folder:" or not os.path.isdir(root):
        raise FileNotFoundError(
            f"no folder {str(root)!r} for the data {name!r}; type folder:PATH, where PATH/train "
            f"holds a folder of images for each class"
        )
    return _split(name, root, *split_files(root), request, request.size)


def _split(
    name: str,
    root: Path,
    parts: dict[str, Files],
    origin: str,
    request: Request,
    size: int | None,
    *,
    channels: int | None = None,
) -> Splits:
    """From memory where the images fit there, else streamed."""
    count = sum(len(names) for names, _ in parts.values())
    if size is not None and too_large(count, (3, size, size)):
        return streamed(name, root, parts, origin, request, size, short=size)
    source = cache.Source(root, {part: names for part, (names, _) in parts.items()}, size)
    allowed = math.ceil(request.broken * count)
    found = cache.find(source) or cache.build(source, _shape(source, channels), allowed)
    images, left_out, scale, where = found
    check_broken(root, left_out, allowed, count)
    if left_out:
        origin += f"; LEFT OUT {len(left_out):,} of {count:,}: {listed(left_out)}"
    made = {}
    for part, places in source.slices(left_out).items():
        names, labels = parts[part]
        good = torch.tensor([name not in left_out for name in names])
        made[part] = (torch.from_numpy(images[places]), labels[good])
    return in_memory(name, f"{origin}; {where}", request.device, scale=scale, **made)


def _shape(source: cache.Source, channels: int | None) -> tuple[int, int, int]:
    """(C, H, W) of all images, read off their headers where it is not known."""
    if channels and source.size:
        return channels, source.size, source.size
    greys, sizes = {}, {}
    for name in source.names:
        with suppress(BrokenImageError):  # it will be counted
            greys[name], sizes[name] = header(source.root / name)
    channels = channels or (1 if all(greys.values()) else 3)
    if source.size or not sizes:
        return channels, source.size or 1, source.size or 1
    first, (width, height) = next(iter(sizes.items()))
    other = next((name for name, size in sizes.items() if size != (width, height)), None)
    short = min(width, height)
    if other:
        raise ValueError(
            f"all images must have one size, but {source.root / first} has {width} x {height} "
            f"pixels and {source.root / other} {' x '.join(map(str, sizes[other]))}; give the size "
            f"that all are brought to (--size {short}, or size={short}), or resize a copy of them "
            f"first, with ImageMagick: mogrify -resize '{width}x{height}!' {source.root}/*/*/*"
        )
    shape = channels, height, width
    if why := too_large(len(source.names), shape):
        raise ValueError(f"{why}; give a size to have them streamed (--size {short})")
    return shape
