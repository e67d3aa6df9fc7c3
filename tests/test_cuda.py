"""What only a GPU can show: the same promises there, cell for cell and bit for bit."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pruning_lab import data, evaluation, experiments, masks, models, sensitivity, training
from pruning_lab.data import Split

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CONFIG = training.TrainConfig(epochs=3, batch_size=64, lr=0.05, shift=1)
DENSITIES = [1.0, 0.5, 0.2, 0.05]


@pytest.fixture(autouse=True)
def _exact():
    """The same kernels every time, in full float32: what is compared differs by nothing else."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = before


@pytest.fixture
def images() -> Split:
    """900 random images, which a batch size of 128 does not divide."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (900, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (900,), generator=generator)
    return Split("val", pixels.cuda(), labels.cuda(), 127.5, 74.0, batch_size=128)


@pytest.fixture(params=[models.lenet_300_100, models.lenet_5])
def model(request):
    torch.manual_seed(0)
    return request.param(dropout=0.5).cuda()


def everything_of(model):
    """Every byte and mode of a model, and both random states."""
    state = {name: tensor.cpu().numpy().tobytes() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    draws = torch.get_rng_state(), torch.cuda.get_rng_state()
    return state, modes, [draw.numpy().tobytes() for draw in draws]


def test_training_resumes_to_the_same_curve_with_dropout(model, images, tmp_path):
    begun, resumed, calls = copy.deepcopy(model), copy.deepcopy(model), []
    torch.manual_seed(5)
    rows = list(training.train(model, images, CONFIG))
    options = {"checkpoint": tmp_path / "c"}

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 22:  # of 15 batches an epoch
            raise KeyboardInterrupt

    begun.register_forward_pre_hook(interrupt)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        list(training.train(begun, images, CONFIG, **options))
    torch.manual_seed(99)
    again = list(training.train(resumed, images, CONFIG, **options))
    for row, other in zip(again, rows, strict=True):
        assert row.loss == pytest.approx(other.loss, rel=1e-5)
        assert row.accuracy == pytest.approx(other.accuracy, abs=0.01)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_masks_hold_under_autocast_and_weights_learn(model, images):
    mask, before = masks.prune(model, density=0.2), copy.deepcopy(model)
    for row in training.train(model, images, replace(CONFIG, bf16=True), mask=mask):
        assert row.peak_bytes >= sum(tensor.nbytes for tensor in model.state_dict().values())
        for name, layer in masks.prunable(model).items():
            assert layer.weight.dtype == torch.float32
            assert not layer.weight[~mask[name]].any()
            assert (layer.weight != masks.prunable(before)[name].weight)[mask[name]].any()


def test_masks_hold_in_a_loop_of_ones_own_with_a_gradient_scaler(model, images):
    mask = masks.prune(model, density=0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    mask.hold(model)
    scaler = torch.amp.GradScaler("cuda")
    for x, y in images:
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    for name, layer in masks.prunable(model).items():
        assert not layer.weight[~mask[name]].any()


def test_training_waits_for_the_gpu_once_an_epoch(model, images):
    """No `.item()` in any step: torch itself warns of each."""
    rows = training.train(model, images, CONFIG)
    next(rows)
    steps = []

    def watch(*_):
        steps.append(1)
        torch.cuda.set_sync_debug_mode("error")

    model.register_forward_pre_hook(watch)
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            next(rows)  # at its end it reads the loss
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 15


def brute_force(model, images, changes) -> int:
    """How many images are right with other weights: the whole network, every batch."""
    changed = copy.deepcopy(model).eval()
    right = 0
    with torch.inference_mode():
        for name, weight in changes.items():
            changed.get_submodule(name).weight.copy_(weight)
        for x, y in images:
            right += int((changed(x).argmax(1) == y).sum())
    return right


def test_a_scan_counts_what_brute_force_counts_and_leaves_no_trace(model, images):
    before = everything_of(model)
    scan = sensitivity.scan(model, images, DENSITIES)
    assert everything_of(model) == before
    assert len(scan) == len(DENSITIES) * len(masks.prunable(model))
    for point in scan:
        mask = masks.prune(model, density={point.layer: point.density})
        weight = model.get_submodule(point.layer).weight.detach() * mask[point.layer]
        right = brute_force(model, images, {point.layer: weight})
        assert round(point.accuracy.value * point.accuracy.n) == right, point


def test_the_suffix_evaluator_counts_what_brute_force_counts_and_leaves_no_trace(model, images):
    before = everything_of(model)
    evaluator = evaluation.Evaluator(model, images)
    for name, layer in masks.prunable(model).items():
        weight = layer.weight.detach() * masks.prune(model, density=0.3)[name]
        right = int(evaluator.accuracy({name: weight}).hits.sum())
        assert right == brute_force(model, images, {name: weight})
    assert evaluator.n == len(images)
    assert everything_of(model) == before


@pytest.mark.parametrize("device", ["cuda", "cpu"])  # a run on the CPU leaves the GPU's too
def test_a_run_leaves_the_callers_random_states(device):
    recipe = experiments.paper_recipe("lenet-300-100", "mnist-5k")
    one = [replace(config, epochs=1) for config in (recipe.dense, *recipe.retrain)]
    recipe = replace(recipe, dense=one[0], retrain=tuple(one[1:]), scan=(0.1,))
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    experiments.run(recipe, data.load("mnist-5k", device=device), seed=3)
    assert all(map(torch.equal, before, (torch.get_rng_state(), torch.cuda.get_rng_state())))
