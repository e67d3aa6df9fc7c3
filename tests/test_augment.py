"""Batches augmented at once, against one image at a time by torchvision and numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import transforms
from torchvision.transforms.v2 import functional as vision

from pruning_lab import data
from pruning_lab.data import augment

ALL = {"shift": 1, "flip": True, "crop": 0.3, "colour": 0.1}


def split_of(count=23, channels=3, height=12, width=9, seed=0) -> data.Split:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, height, width)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return data.Split("train", images, torch.arange(count), mean=0.0, std=1.0)


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def epoch(split, seed=0, batch_size=8, **options) -> tuple[torch.Tensor, torch.Tensor]:
    batches = split.shuffled(batch_size, seeded(seed), **options)
    return tuple(map(torch.cat, zip(*batches, strict=True)))


# --- nothing of what was recorded has changed --------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_without_flip_crop_and_colour_an_epoch_is_the_one_it_always_was(shift):
    """Against the loop with which the results so far were recorded, to the generator's state."""
    split = split_of(channels=1)
    theirs, ours = seeded(5), seeded(5)
    order = torch.randperm(split.n, generator=theirs)
    down, right = torch.randint(2 * shift + 1, (2, split.n), generator=theirs)
    padded = torch.nn.functional.pad(split.images[order], 4 * (shift,))
    expected = [
        image[:, y : y + 12, x : x + 9] for image, y, x in zip(padded, down, right, strict=True)
    ]
    batches = list(split.shuffled(8, ours, shift=shift))
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.stack(expected).float())
    assert torch.equal(torch.cat([y for _, y in batches]), order)
    assert torch.equal(ours.get_state(), theirs.get_state())


# --- each kind, against someone else -----------------------------------------------------------


def test_a_flip_mirrors_every_other_image_left_to_right():
    split = split_of(count=2000, height=3, width=2)
    images, places = epoch(split, flip=True, batch_size=300)
    mirrored = 0
    for image, place in zip(images, places, strict=True):
        whole = split.images[place].float()
        mirror = torch.equal(image, vision.horizontal_flip(whole))
        assert mirror or torch.equal(image, whole)
        mirrored += mirror
    assert mirrored == pytest.approx(1000, abs=4 * math.sqrt(500))


def box_by_the_rule(numbers: list[float], height: int, width: int, crop: float) -> list[int]:
    """torchvision's RandomResizedCrop.get_params, fed with numbers."""
    for area, ratio in zip(numbers[:10], numbers[10:20], strict=True):
        area = height * width * (crop + area * (1 - crop))
        ratio = math.exp(math.log(3 / 4) + ratio * (math.log(4 / 3) - math.log(3 / 4)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return [int(numbers[20] * (height - h + 1)), int(numbers[21] * (width - w + 1)), h, w]
    w, h = width, height
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return [(height - h) // 2, (width - w) // 2, h, w]


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    crop=st.floats(0.01, 1),
    seed=st.integers(0, 999),
)
def test_a_box_is_torchvisions_for_the_same_numbers(height, width, crop, seed):
    numbers = torch.rand(20, 22, generator=seeded(seed))
    expected = [box_by_the_rule(row, height, width, crop) for row in numbers.tolist()]
    assert augment.boxes(numbers, height, width, crop).tolist() == expected


def test_boxes_are_spread_as_torchvisions_are():
    torch.manual_seed(0)
    photo, count = torch.empty(3, 60, 80), 3000
    rule = transforms.RandomResizedCrop
    theirs = np.array([rule.get_params(photo, (0.2, 1), (3 / 4, 4 / 3)) for _ in range(count)])
    ours = augment.boxes(torch.rand(count, 22), 60, 80, 0.2).numpy()
    error = theirs.std(0) / math.sqrt(count / 2)
    assert (np.abs(theirs.mean(0) - ours.mean(0)) < 4 * error).all()
    assert ours.std(0) == pytest.approx(theirs.std(0), rel=0.07)


def test_a_crop_is_torchvisions_of_one_image_after_the_other():
    split = split_of(count=40)
    generator = seeded(0)
    order = torch.randperm(40, generator=generator)
    torch.randint(1, (2, 40), generator=generator)
    numbers = torch.rand(40, 22, generator=generator).tolist()
    images, places = epoch(split, crop=0.1)
    assert torch.equal(places, order)
    for image, place, row in zip(images, places, numbers, strict=True):
        box = box_by_the_rule(row, 12, 9, 0.1)
        expected = vision.resized_crop(split.images[place].float(), *box, size=[12, 9])
        torch.testing.assert_close(image, expected, rtol=0, atol=0.01)


def test_a_crop_is_mirrored_where_a_flip_alone_would_be():
    split, generator = split_of(), seeded(0)
    order = torch.randperm(23, generator=generator)
    torch.randint(1, (2, 23), generator=generator)
    flips = torch.rand(23, generator=generator) < 0.5
    boxes = augment.boxes(torch.rand(23, 22, generator=generator), 12, 9, 0.2)
    shown = augment.cropped(split.images[order], boxes)
    expected = [x.flip(2) if flip else x for x, flip in zip(shown, flips, strict=True)]
    assert torch.equal(epoch(split, crop=0.2, flip=True)[0], torch.stack(expected))


def test_a_crop_shows_nothing_from_outside_of_its_box():
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[:, :, 2:5, 3:6] = 200
    shown = augment.cropped(image, torch.tensor([[2, 3, 3, 3]]))
    torch.testing.assert_close(shown, torch.full((1, 3, 8, 8), 200.0))


def test_the_axes_of_colour_are_the_eigenvectors_of_the_pixels():
    pixels = split_of(count=200).images
    pixels[:, 1] = pixels[:, 0] // 2 + pixels[:, 1] // 4  # channels that go together
    levels = pixels.numpy().transpose(1, 0, 2, 3).reshape(3, -1) / 255
    covariance = np.cov(levels, bias=True)
    axes = np.array(data.splits.scale_of(pixels).axes) / 255
    eigenvalues = np.linalg.norm(axes, axis=1)
    assert eigenvalues.sum() == pytest.approx(np.trace(covariance))
    for axis, eigenvalue in zip(axes, eigenvalues, strict=True):
        assert covariance @ axis == pytest.approx(eigenvalue * axis)
    assert axes @ axes.T == pytest.approx(np.diag(eigenvalues**2), abs=1e-12)


def test_colour_adds_a_step_along_each_axis_to_every_pixel():
    split = split_of(count=30)
    axes = torch.tensor(data.splits.scale_of(split.images).axes)
    generator = seeded(0)
    torch.randperm(30, generator=generator)
    torch.randint(1, (2, 30), generator=generator)
    alphas = 0.3 * torch.randn(30, 3, generator=generator)
    images, places = epoch(split, colour=0.3)
    for image, place, alpha in zip(images, places, alphas, strict=True):
        step = sum(a * axis for a, axis in zip(alpha, axes, strict=True))
        expected = split.images[place].float() + step[:, None, None]
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-3)


def test_colour_on_grey_images_is_brightness():
    split = split_of(count=500, channels=1)
    images, places = epoch(split, colour=0.5)
    change = images - split.images[places]
    assert change.std((1, 2, 3)).max() < 1e-4  # one number for all pixels
    variance = (split.images.double() / 255).var(correction=0).item()
    assert change.mean((1, 2, 3)).std().item() == pytest.approx(0.5 * 255 * variance, rel=0.15)


# --- chance ------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("options", [{}, {"shift": 2}, ALL])
def test_the_parts_of_all_processes_are_the_batches_of_one_bit_for_bit(world, options):
    split = split_of()
    whole = list(split.shuffled(8, seeded(), **options))
    parts = [
        list(split.shuffled(8, seeded(), share=(rank, world), **options)) for rank in range(world)
    ]
    assert [len(part) for part in parts] == world * [len(whole)]
    for (x, y), *theirs in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([part for part, _ in theirs]), x)
        assert torch.equal(torch.cat([part for _, part in theirs]), y)
        sizes = [len(part) for _, part in theirs]
        assert max(sizes) - min(sizes) <= 1


def test_equal_seeds_give_equal_epochs_and_everything_else_another():
    split = split_of()
    images, places = epoch(split, seed=1, **ALL)
    again, _ = epoch(split, seed=1, batch_size=5, **ALL)
    assert torch.equal(images, again)
    assert not torch.equal(images, epoch(split, seed=2, **ALL)[0])
    for kind in ALL:
        fewer, order = epoch(split, seed=1, **{key: ALL[key] for key in ALL if key != kind})
        assert torch.equal(order, places)
        assert not torch.equal(images, fewer)
    before = torch.get_rng_state()
    epoch(split, **ALL)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"crop": 0}, "crop is the smallest fraction"),
        ({"crop": 1.5}, "crop is the smallest fraction"),
        ({"shift": -1}, "shift and colour must be >= 0, got -1"),
        ({"colour": -0.1}, "shift and colour must be >= 0, got 0 and -0.1"),
        ({"share": (2, 2)}, r"share is \(rank, world\) with 0 <= rank < world, got \(2, 2\)"),
    ],
)
def test_what_cannot_be_is_answered_in_one_sentence(options, says):
    with pytest.raises(ValueError, match=says):
        next(split_of().shuffled(8, seeded(), **options))


# --- normalising -------------------------------------------------------------------------------


def test_each_channel_has_its_own_mean_and_std_and_torchvisions_where_wanted():
    split = split_of().renormalised(*data.IMAGENET)
    ((x, _),) = split
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = vision.normalize(split.images.float() / 255, mean, std)
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(split.normalise(split.images[:3]), x[:3])
