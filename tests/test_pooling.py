"""Max pooling by slices, against torch's own."""

import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from pruning_lab.evaluation.pooling import MaxPool

LAYOUTS = (torch.contiguous_format, torch.channels_last)
sides = st.integers(1, 13)
pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), sides, sides),
    size=pairs,
    stride=st.none() | pairs,
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    ceil=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
)
@example((1, 1, 3, 5), (4, 4), None, 0, 1, False, torch.contiguous_format, 0)  # too large
def test_it_answers_as_torch_does(shape, size, stride, padding, dilation, ceil, layout, seed):
    torch.manual_seed(seed)
    # Few different values, so that there are ties; some are not finite.
    x = torch.randint(-3, 4, shape).float()
    x[x == 3], x[x == -3] = torch.inf, -torch.inf
    x[torch.rand(shape) < 0.05] = torch.nan
    x = x.to(memory_format=layout)
    before = x.clone()
    step = nn.MaxPool2d(size, stride, padding, dilation, ceil_mode=ceil)
    try:
        expected = step(x)
    except RuntimeError as error:  # a window that does not fit, or a padding too wide
        with pytest.raises(RuntimeError, match=re.escape(str(error))):
            MaxPool.like(step)(x)
        return
    answer = MaxPool.like(step)(x)
    torch.testing.assert_close(answer, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("step", "side", "sliced"),
    [
        (nn.MaxPool2d(2), 24, True),
        (nn.MaxPool2d((2, 3), ceil_mode=True), 24, True),
        (nn.MaxPool2d((2, 3)), 23, True),
        (nn.MaxPool2d((2, 3), ceil_mode=True), 23, False),
        (nn.MaxPool2d(2, padding=1), 24, False),
        (nn.MaxPool2d(2, dilation=2), 24, False),
        (nn.MaxPool2d(2, return_indices=True), 24, False),
        (nn.MaxPool2d(3, 2), 27, False),
    ],
)
def test_it_is_done_by_slices_where_it_can_be(step, side, sliced, layout, monkeypatch):
    x = torch.randn(2, 5, side, side).to(memory_format=layout)
    expected, asked = step(x), []
    theirs = nn.MaxPool2d.forward
    monkeypatch.setattr(nn.MaxPool2d, "forward", lambda s, x: asked.append(1) or theirs(s, x))
    answer = MaxPool.like(step)(x)
    torch.testing.assert_close(answer, expected, rtol=0, atol=0)
    assert bool(asked) != sliced
    if sliced:
        assert answer.is_contiguous(memory_format=layout)  # as the next convolution wants it
