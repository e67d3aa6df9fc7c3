"""Photos: Imagenette, ImageNet and folders of your own; decoded into memory, else streamed."""

import math
import os
from pathlib import Path

import torch

from pruning_lab.data import cache, shapes
from pruning_lab.data.decoding import BrokenImageError, check_broken, header, listed
from pruning_lab.data.folders import Sample, split_samples
from pruning_lab.data.request import Request, check_memory, fits_memory
from pruning_lab.data.splits import Splits, in_memory
from pruning_lab.data.streams import streamed

_Samples = dict[str, list[Sample]]  # of train, val and test


def imagenette_folder(root: Path) -> Path:
    return root / "imagenette2-160"


def photos(request: Request) -> Splits:
    """Imagenette where it is; else shapes, said as loudly as `auto` says digits."""
    folder = imagenette_folder(request.root)
    if request.download or folder.is_dir():
        return imagenette(request)
    return shapes.splits(
        request, f"NO PHOTOS: shapes drawn on the spot, since {folder} is not there"
    )


def imagenette(request: Request) -> Splits:
    """Imagenette as torchvision lays it out; its val is test, every tenth of train is val."""
    folder = imagenette_folder(request.root)
    if not folder.is_dir():
        _fetch_imagenette(folder, request)
    samples, origin = split_samples(folder, held_out=["val"])
    return _split(
        "imagenette", folder, samples, origin, request, size=request.size or 160, channels=3
    )


def _fetch_imagenette(folder: Path, request: Request) -> None:
    from torchvision import datasets  # slow to import

    if not request.download:
        raise FileNotFoundError(
            f"no Imagenette in {folder}; set PRUNING_LAB_DATA to the folder that holds "
            f"imagenette2-160/, or fetch it with --download (download=True), or take shapes"
        )
    try:
        datasets.Imagenette(request.root, size="160px", download=True)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f"Imagenette could not be fetched ({error}); check the connection, unpack "
            f"imagenette2-160.tgz into {request.root} by hand, or take shapes"
        ) from None


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
    samples, origin = split_samples(folder, held_out=["val"])
    size = request.size or 224
    return streamed(
        "imagenet", folder, samples, origin, request, size, short=round(size * 256 / 224)
    )


def folder(name: str, request: Request) -> Splits:
    """Images of your own; grey where every image is grey, else RGB. Too large for memory: streamed.

    Without a size all must have one size, and fit into memory.
    """
    root = Path(os.path.expanduser(name.removeprefix("folder:")))
    if name == "folder:" or not root.is_dir():
        raise FileNotFoundError(
            f"no folder {str(root)!r} for the data {name!r}; type folder:PATH, where PATH/train "
            f"holds a folder of images for each class"
        )
    return _split(name, root, *split_samples(root), request, size=request.size)


def _split(
    name: str,
    root: Path,
    samples: _Samples,
    origin: str,
    request: Request,
    *,
    size: int | None,
    channels: int | None = None,
) -> Splits:
    """From memory where the images fit there, else streamed."""
    count = sum(map(len, samples.values()))
    if size is not None and not fits_memory(count, (3, size, size)):
        return streamed(name, root, samples, origin, request, size, short=size)
    parts = {part: [os.path.relpath(path, root) for path, _ in samples[part]] for part in samples}
    source, allowed = cache.Source(root, parts, size), math.ceil(request.broken * count)
    found = cache.find(source) or cache.build(source, _shape(source, channels), allowed)
    pixels, about, where = found
    check_broken(root, about.left_out, allowed, count)
    if about.left_out:
        origin += f"; LEFT OUT {len(about.left_out):,} of {count:,}: {listed(about.left_out)}"
    made = {}
    for part, where_in in source.slices(about.left_out).items():
        good = [name not in about.left_out for name in parts[part]]
        labels = torch.tensor([label for _, label in samples[part]])[torch.tensor(good)]
        made[part] = (torch.from_numpy(pixels[where_in]), labels)
    return in_memory(name, f"{origin}; {where}", request.device, scale=about.scale, **made)


def _shape(source: cache.Source, channels: int | None) -> cache.Shape:
    """(C, H, W) of all images, read off their headers where it is not known."""
    if channels and source.size:
        return channels, source.size, source.size
    greys, sizes = [], {}
    for name in source.names:
        try:
            grey, sizes[name] = header(source.root / name)
        except BrokenImageError:  # it will be counted
            continue
        greys.append(grey)
    channels = channels or (1 if all(greys) else 3)
    if source.size or not sizes:
        return channels, source.size or 1, source.size or 1
    width, height = _common_size(sizes, source.root)
    advice = f"give a size to have them streamed (--size {min(width, height)})"
    check_memory(len(source.names), (channels, height, width), advice)
    return channels, height, width


def _common_size(sizes: dict[str, tuple[int, int]], root: Path) -> tuple[int, int]:
    (first, wanted), *rest = sizes.items()
    for name, size in rest:
        if size != wanted:
            raise ValueError(
                f"all images must have one size, but {root / first} has {_by(wanted)} pixels and "
                f"{root / name} {_by(size)}; give the size that all are brought to (--size "
                f"{min(wanted)}, or size={min(wanted)}), or resize a copy of them first, with "
                f"ImageMagick: mogrify -resize '{_by(wanted, 'x')}!' {root}/*/*/*"
            )
    return wanted


def _by(size: tuple[int, int], by: str = " x ") -> str:
    return by.join(map(str, size))
