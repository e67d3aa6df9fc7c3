"""Accuracies are what a plain loop counts, intervals what scipy gives, and no trace stays."""

import contextlib
import math
import random
import re
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pruning_lab as lab
from pruning_lab import counts, data, evaluation, layers, sensitivity
from pruning_lab.evaluation import accuracy
from pruning_lab.studio import Studio


def share_of_right_answers(model, batches):
    """The plain loop, image by image."""
    model.eval()
    with torch.no_grad():
        pairs = [pair for batch in batches for pair in zip(*batch, strict=True)]
        answers = [(model(x[None])[0].argmax() == y).item() for x, y in pairs]
    return sum(answers) / len(answers)


def test_accuracy_is_what_a_plain_loop_counts_short_last_batch_and_all(toy, split, batches):
    accuracy = evaluation.evaluate(toy, split)
    assert accuracy.value == share_of_right_answers(toy, batches)
    assert accuracy.n == len(accuracy.hits) == 50
    assert accuracy.error == 1 - accuracy.value
    assert str(accuracy).endswith("50 images)")


def test_a_split_a_list_a_loader_and_a_generator_serve_alike(toy, split, batches):
    images = torch.cat([x for x, _ in batches])
    loader = DataLoader(TensorDataset(images, split.labels), batch_size=7)
    hits = evaluation.evaluate(toy, split).hits
    for images in (batches, loader, (batch for batch in batches)):
        assert torch.equal(evaluation.evaluate(toy, images).hits, hits)


def test_no_images_have_no_accuracy(toy):
    with pytest.raises(ValueError, match="no images"):
        evaluation.evaluate(toy, [])


# --- labels and answers ------------------------------------------------------------------------


def by_studio(model, images):
    splits = data.Splits("own", train=None, val=images, test=None, origin="")
    with contextlib.closing(Studio(model, splits)) as studio:
        return studio.settle().metrics().accuracy


MEASURES = {
    "evaluate": evaluation.evaluate,
    "scan": lambda model, images: sensitivity.scan(model, images, [1.0]).dense,
    "Evaluator": lambda model, images: evaluation.Evaluator(model, images).accuracy(),
    "Studio": by_studio,
}


@pytest.fixture(params=MEASURES.values(), ids=MEASURES)
def measure(request):
    return request.param


LABELS = {
    "a column": (lambda y: y[:, None], r"int64 of shape \(16, 1\)"),
    "a column of floats": (lambda y: y[:, None].float(), r"float32 of shape \(16, 1\)"),
    "one alone": (lambda y: y[:1], r"int64 of shape \(1,\)"),
    "too few": (lambda y: y[:-1], r"int64 of shape \(15,\)"),
    "none": (lambda y: y[0], r"int64 of shape \(\)"),
    "one-hot": (lambda y: nn.functional.one_hot(y, 4), r"int64 of shape \(16, 4\)"),
    "one-hot bools": (lambda y: nn.functional.one_hot(y, 4).bool(), r"bool of shape \(16, 4\)"),
    "soft": (lambda y: nn.functional.one_hot(y, 4) * 0.9, r"float32 of shape \(16, 4\)"),
    "floats": (lambda y: y.float(), r"float32 of shape \(16,\)"),
    "bools": (lambda y: y > 1, r"bool of shape \(16,\)"),
    "a list": (lambda y: y.tolist(), "a list"),
}


@pytest.mark.parametrize(("odd", "says"), LABELS.values(), ids=LABELS)
def test_labels_that_are_no_class_for_each_image_get_one_sentence(
    odd, says, measure, toy, batches, tmp_path
):
    with pytest.raises(
        ValueError, match=rf"^labels must be .* of shape \(16,\).* got {says}; type .*y.squeeze"
    ):
        measure(toy, [(x, odd(y)) for x, y in batches[:3]])


ANSWERS = {
    "a tuple": (lambda y: (y, y), "got a tuple;"),
    "a dict": (lambda y: {"logits": y}, "got a dict;"),
    "nothing": (lambda y: None, "got a NoneType;"),
    "a map": (lambda y: y[:, :, None, None], r"got a Tensor of shape \(\d+, 4, 1, 1\);"),
    "a number": (lambda y: y[:, 0], r"got a Tensor of shape \(\d+,\);"),
}


@pytest.mark.parametrize(("odd", "says"), ANSWERS.values(), ids=ANSWERS)
def test_answers_that_are_no_logits_get_one_sentence(odd, says, measure, batches):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(64, 4)

        def forward(self, x):
            return odd(self.fc(x.flatten(1)))

    with pytest.raises(ValueError, match=rf"must answer with a tensor of shape .*{says} wrap it"):
        measure(Odd(), batches)


def test_a_scan_that_is_refused_leaves_no_file(toy, batches, tmp_path):
    with pytest.raises(ValueError, match="squeeze"):
        sensitivity.scan(toy, [(x, y[:, None]) for x, y in batches], [1.0], out=tmp_path / "s.csv")
    assert list(tmp_path.iterdir()) == []


def test_labels_of_any_integers_serve_and_those_of_no_class_count_as_wrong(measure, toy, batches):
    expected = measure(toy, batches)
    with torch.no_grad():
        kept = [toy.eval()(x).argmax(1) == y for x, y in batches]
    for odd in (lambda y: y.int(), lambda y: y.to(torch.uint8)):
        assert measure(toy, [(x, odd(y)) for x, y in batches]) == expected
    for wrong in (-1, 4, 1000):
        images = [
            (x, torch.where(k, y, torch.tensor(wrong)))
            for (x, y), k in zip(batches, kept, strict=True)
        ]
        assert measure(toy, images).value == expected.value


# --- intervals ---------------------------------------------------------------------------------


@given(data=st.data(), n=st.integers(1, 20_000))
def test_the_interval_is_scipys_wilson(data, n):
    right = data.draw(st.integers(0, n))
    expected = binomtest(right, n).proportion_ci(confidence_level=0.95, method="wilson")
    low, high = evaluation.wilson(right, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= low <= right / n <= high <= 1


def test_z_is_the_normal_quantile():
    assert pytest.approx(norm.ppf(0.975), abs=1e-6) == accuracy.Z


def accuracies(both: int, lost: int, won: int, neither: int):
    """Two measurements on the same images, from the four cells of their table."""
    cells = [(True, True), (True, False), (False, True), (False, False)]
    pairs = [
        cell
        for cell, count in zip(cells, (both, lost, won, neither), strict=True)
        for _ in range(count)
    ]
    return (evaluation.Accuracy.of(torch.tensor(hits)) for hits in zip(*pairs, strict=True))


def test_the_paired_drop_is_the_worked_example_by_hand():
    """Agresti and Min add half to each cell: (25.5 - 10.5) / 102 with variance by the formula."""
    drop = evaluation.drop(*accuracies(both=50, lost=25, won=10, neither=15))
    share_lost, share_won = 25.5 / 102, 10.5 / 102
    difference = share_lost - share_won
    half = 1.959964 * math.sqrt((share_lost + share_won - difference**2) / 102)
    assert drop.value == pytest.approx(0.15)
    assert (drop.low, drop.high) == pytest.approx((difference - half, difference + half))
    assert str(drop) == "-15.00 points (-25.88 to -3.54)"  # a loss
    assert str(evaluation.Drop.counted(0, 0, 10**9)) == "+0.00 points (+0.00 to +0.00)"


@given(cells=st.tuples(*[st.integers(0, 30)] * 4).filter(any))
def test_a_drop_lies_in_its_interval_and_turns_its_sign_with_its_direction(cells):
    before, after = accuracies(*cells)
    drop, gain = evaluation.drop(before, after), evaluation.drop(after, before)
    assert -1 <= drop.low <= drop.value <= drop.high <= 1
    assert drop.value == pytest.approx(before.value - after.value)
    assert (gain.value, gain.low, gain.high) == pytest.approx((-drop.value, -drop.high, -drop.low))


@pytest.mark.parametrize(
    ("lost", "won", "says"),
    [
        (30, 5, "worse"),
        (5, 30, "better"),
        (20, 15, "these 1,000 images cannot tell the two apart"),
        (0, 0, "these 1,000 images cannot tell the two apart"),
    ],
)
def test_a_drop_concludes_no_more_than_mcnemars_test_allows(lost, won, says):
    assert evaluation.Drop.counted(lost, won, 1000).conclusion == says
    is_real = lost + won > 0 and binomtest(lost, lost + won).pvalue < 0.05
    assert is_real == (says in ("worse", "better"))


@pytest.mark.parametrize(
    ("cells", "n"),
    [
        ((0.9, 0.05, 0.02, 0.03), 400),
        ((0.95, 0.02, 0.01, 0.02), 2000),
        ((0.55, 0.2, 0.05, 0.2), 1000),
        ((0.2, 0.7, 0.02, 0.08), 500),  # a layer that breaks
    ],
)
def test_the_paired_interval_covers_the_truth_95_times_in_100(cells, n):
    truth, drawn = cells[1] - cells[2], np.random.default_rng(0).multinomial(n, cells, 2000)
    drops = [evaluation.Drop.counted(int(lost), int(won), n) for _, lost, won, _ in drawn]
    assert 0.93 <= np.mean([drop.low <= truth <= drop.high for drop in drops]) <= 0.97
    assert np.mean([drop.value for drop in drops]) == pytest.approx(truth, abs=0.002)


@pytest.mark.parametrize(("share", "n"), [(0.98, 500), (0.9, 400), (0.6, 2000), (0.1, 1000)])
def test_wilsons_interval_covers_the_truth_95_times_in_100(share, n):
    drawn = np.random.default_rng(0).binomial(n, share, 2000)
    accuracies = [evaluation.Accuracy.counted(int(right), n) for right in drawn]
    assert 0.93 <= np.mean([a.low <= share <= a.high for a in accuracies]) <= 0.97


@given(cells=st.tuples(*[st.integers(0, 30)] * 4).filter(any))
def test_counts_say_what_the_images_one_by_one_say(cells):
    both, lost, won, _ = cells
    before, after = accuracies(*cells)
    n = sum(cells)
    assert evaluation.Drop.counted(lost, won, n) == evaluation.drop(before, after)
    assert evaluation.Accuracy.counted(both + lost, n) == before
    assert evaluation.Accuracy.counted(both + won, n) == after


def test_the_paired_interval_is_narrower_than_two_unpaired_ones():
    before, after = accuracies(both=900, lost=8, won=2, neither=90)
    drop = evaluation.drop(before, after)
    unpaired = math.hypot(before.high - before.low, after.high - after.low)
    assert drop.high - drop.low < 0.4 * unpaired


@given(st.lists(st.tuples(*[st.integers(0, 60)] * 3), min_size=1, max_size=5))
def test_pooled_drops_are_those_of_all_images_together(cells):
    """An oracle that knows each seed's lost and won images, which a Drop no longer has."""
    cells = [(lost, won, lost + won + same + 1) for lost, won, same in cells]
    drops = [evaluation.Drop.counted(*cell) for cell in cells]
    assert [drop.changed for drop in drops] == [lost + won for lost, won, _ in cells]
    together = [sum(column) for column in zip(*cells, strict=True)]
    assert evaluation.pooled(drops) == evaluation.Drop.counted(*together)


def test_pooling_nothing_is_refused():
    with pytest.raises(ValueError, match="no drops to pool"):
        evaluation.pooled([])


def test_a_drop_needs_the_same_images(toy, split):
    whole, part = evaluation.evaluate(toy, split), evaluation.evaluate(toy, split.head(20))
    with pytest.raises(ValueError, match="the same images, got 50 before and 20 after"):
        evaluation.drop(whole, part)
    read = evaluation.Accuracy(whole.value, whole.low, whole.high, whole.n)
    with pytest.raises(ValueError, match="measure both accuracies with evaluate"):
        evaluation.drop(whole, read)


def test_a_drop_refuses_images_that_came_in_another_order(toy, split, batches):
    pixels = torch.cat([x for x, _ in batches])
    loader = DataLoader(TensorDataset(pixels, split.labels), batch_size=7, shuffle=True)
    one = evaluation.evaluate(toy, loader)
    assert evaluation.drop(one, evaluation.evaluate(toy, loader)).value == 0  # from equal states
    torch.rand(1)
    other = evaluation.evaluate(toy, loader)
    with pytest.raises(ValueError, match="the images come in another order each time"):
        evaluation.drop(one, other)
    in_order, evaluator = evaluation.evaluate(toy, split), evaluation.Evaluator(toy, split)
    with contextlib.closing(Studio(toy, split)) as studio:
        studied = studio.settle().metrics().change.accuracy
    for known in (in_order, evaluator.accuracy(), studied):
        with pytest.raises(ValueError, match="another order"):
            evaluation.drop(known, other)
        assert evaluation.drop(in_order, known).value == 0
        assert evaluation.drop(known, evaluation.Accuracy.of(in_order.hits)).value == 0  # unknown
    assert "order" not in repr(one)
    assert in_order == evaluation.Accuracy.of(in_order.hits)


# --- what is no images, and no network ---------------------------------------------------------


def by_scan(model, images):
    return sensitivity.scan(model, images, [0.5])


def by_choice(model, images):
    one = [(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64))]
    scan = sensitivity.scan(model, one, [0.5])
    return sensitivity.choose(scan, max_drop=1, model=model, images=images)


def by_training(model, images):
    return list(lab.train(model, images, lab.TrainConfig(epochs=1)))


WITH_LABELS = [by_studio, by_scan, by_choice, by_training, evaluation.Evaluator]
WITH_LABELS += [evaluation.evaluate, counts.layers]


@pytest.mark.parametrize("measure", WITH_LABELS)
def test_images_that_are_no_batches_are_refused_in_one_sentence(measure, toy, batches):
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    three = data.Splits("own", train=batches, val=batches, test=batches, origin="")
    todo = {
        r"with dict for a batch; type \[\(b\['image'\], b\['label'\]\)": [{"image": x, "label": y}],
        r"with tuple for a batch; type \[\(x, y\) for x, y, \*_ in images\]$": [(x, y, y)],
        r"Tensor, with Tensor for a batch; for two tensors, type \[\(x, y\)\]$": x,
        r"tuple, with Tensor for a batch; for two tensors": (x, y),
        r"with Tensor for a batch; for two": (x[:2], y[:2]),
        r"with Splits for a batch; give one split, such as splits.val": three,
        r"one by one, type DataLoader\(images, batch_size=500\)$": TensorDataset(x, y),
        r"with tuple for a batch; for images one by one": [(x[0], 1)],
        r"got 3, with int for a batch$": 3,
    }
    if measure is by_studio:  # which takes its part
        todo = {words: images for words, images in todo.items() if images is not three}
    for words, images in todo.items():
        with pytest.raises(ValueError, match=r"^expected batches \(x, y\)") as error:
            measure(toy, images)
        assert re.search(words, str(error.value)), error.value
        assert len(str(error.value)) < 210


@pytest.mark.parametrize("measure", WITH_LABELS)
def test_the_name_of_a_file_is_no_network(measure, batches):
    with pytest.raises(TypeError, match=r"nn.Module.*'own.safetensors'.*models.load\(path\)$"):
        measure("own.safetensors", batches)


HALF = [by_studio, by_scan, by_training, evaluation.evaluate, counts.layers]


@pytest.mark.parametrize("measure", HALF)
def test_a_network_in_half_precision_is_told_what_to_type(measure, toy, batches):
    with pytest.raises(ValueError, match=r"is in float16, and images are float32; type model.flo"):
        measure(toy.half(), batches)


def test_a_network_in_half_precision_answers_to_images_of_its_own_kind(toy, batches):
    own = [(x.bfloat16(), y) for x, y in batches]
    assert evaluation.evaluate(toy.bfloat16(), own).n == 50


# --- no trace ----------------------------------------------------------------------------------


def mixed(model):
    """Modules in different modes, as when someone holds a batch norm still."""
    model.train()
    list(model.modules())[2].eval()
    return model


@pytest.mark.parametrize("name", ["toy", "branching"])
def test_measuring_leaves_every_byte_mode_and_random_state(name, request, batches, everything_of):
    model = mixed(request.getfixturevalue(name))
    before = everything_of(model)
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(images, labels), batch_size=8, shuffle=True)
    evaluation.evaluate(model, loader)
    assert everything_of(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_measuring_leaves_no_trace_after_an_error_too(toy, batches, error, everything_of):
    def images():
        yield batches[0]
        torch.rand(3), np.random.rand(), random.random()
        raise error

    before = everything_of(mixed(toy))
    with pytest.raises(error):
        evaluation.evaluate(toy, images())
    assert everything_of(toy) == before


def test_in_another_thread_measuring_leaves_random_numbers_to_the_main_one(toy, batches):
    """What the main thread draws in the meantime must not be drawn by it a second time."""
    inside, drawn = threading.Event(), threading.Event()

    def images():
        inside.set()
        assert drawn.wait(20)
        yield batches[0]

    def drawing() -> list:
        return [torch.rand(1).item(), np.random.rand(), random.random()]

    measured, modes = [], [module.training for module in toy.modules()]
    thread = threading.Thread(target=lambda: measured.append(evaluation.evaluate(toy, images())))
    thread.start()
    assert inside.wait(20)
    first = drawing()
    drawn.set()
    thread.join()
    assert all(one != other for one, other in zip(first, drawing(), strict=True))
    assert measured == [evaluation.evaluate(toy, batches[:1])]
    assert [module.training for module in toy.modules()] == modes
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_measuring_keeps_no_gradients_and_dropout_still(batches):
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append((torch.is_grad_enabled(), self.training))
            return x.flatten(1)

    evaluation.evaluate(Spy(), batches)
    assert set(seen) == {(False, False)}


class Caching(nn.Module):
    """Caches a tensor in forward, one for each number of images, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.fc, self.cache = nn.Linear(64, 4), {}

    def forward(self, x):
        n = len(x)  # no trace gets past this
        if n not in self.cache:
            self.cache[n] = torch.linspace(0, 1, n * 64).view(n, 64)
        return self.fc(x.flatten(1) * self.cache[n])


@pytest.mark.parametrize("name", ["evaluate", "scan", "Evaluator"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_that_caches_a_tensor_can_be_trained_after_measuring(name, threads, batches):
    model = Caching()
    torch.set_num_threads(threads)
    try:
        MEASURES[name](model, batches)
    finally:
        torch.set_num_threads(1)
    for x, y in batches:
        nn.functional.cross_entropy(model(x.requires_grad_()), y).backward()
    assert x.grad.count_nonzero() > 0


def test_weights_that_an_evaluator_made_can_be_trained_through(toy, batches):
    session = evaluation.Evaluator(toy, batches)
    session.commit({"fc2": evaluation.Thresholded(toy.fc2.weight.detach(), 0.1)})
    x = torch.ones(1, 12, requires_grad=True)
    nn.functional.linear(x, session.base["fc2"]).sum().backward()
    assert x.grad.count_nonzero() > 0


def test_mode_comes_back_module_by_module(toy):
    mixed(toy)
    before = [module.training for module in toy.modules()]
    with layers.mode(toy, training=True):
        assert all(module.training for module in toy.modules())
    assert [module.training for module in toy.modules()] == before
