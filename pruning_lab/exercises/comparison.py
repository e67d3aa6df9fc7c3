"""Whether two values are equal, where they differ, and a value in few words."""

import math
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn

from pruning_lab.isolation import Raised

_MOST = 12  # values of a list or tensor that are shown


def difference(expected: object, got: object, place: str = "") -> str | None:
    """The first place where two values differ, in words; None where they are equal.

    Numbers are equal to 5 digits where a float is expected; a tensor's kind (bool, int, float) and
    shape count, its width and device do not; a list may be a tuple; NaN equals NaN.

    >>> difference([1, {"a": 2.0}], [1, {"a": 2.5}])
    "at [1]['a']: expected 2, got 2.5"
    """
    expected, got = _scalar(expected), _scalar(got)
    if isinstance(expected, Tensor) and isinstance(got, Tensor):
        return _of_tensors(expected, got, place)
    if isinstance(expected, dict) and isinstance(got, dict):
        if missing := [key for key in expected if key not in got]:
            return _at(place, f"{brief(missing[0])} is missing")
        if extra := [key for key in got if key not in expected]:
            return _at(place, f"{brief(extra[0])} is too much")
        pairs = [(key, expected[key], got[key]) for key in expected]
    elif isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        if len(expected) != len(got):
            return _at(place, f"expected {len(expected)} entries, got {len(got)}")
        pairs = [(index, *pair) for index, pair in enumerate(zip(expected, got, strict=True))]
    else:
        equal = _equal(expected, got)
        if equal is None:
            return _at(place, f"expected {_kind(expected)}, got {_kind(got)}")
        return None if equal else _at(place, f"expected {brief(expected)}, got {brief(got)}")
    found = (difference(ours, theirs, f"{place}[{key!r}]") for key, ours, theirs in pairs)
    return next((words for words in found if words is not None), None)


def _at(place: str, words: str) -> str:
    return f"at {place}: {words}" if place else words


def _scalar(value: object) -> object:
    """A tensor or numpy value without dimensions as the number it holds."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.dim() == 0):
        return value.item()
    return value


def _equal(expected: object, got: object) -> bool | None:
    """None where the two are not of one kind; unknown types are never asked whether they equal."""
    if isinstance(expected, Real) and isinstance(got, Real):
        if isinstance(expected, bool) != isinstance(got, bool):
            return None
        if not isinstance(expected, float):
            return expected == got
        both_nan = math.isnan(expected) and got != got
        return both_nan or math.isclose(expected, got, rel_tol=1e-5, abs_tol=1e-9)
    return expected == got if type(expected) is type(got) else None


def _of_tensors(expected: Tensor, got: Tensor, place: str) -> str | None:
    kinds = [_kind(tensor) for tensor in (expected, got)]
    if kinds[0] != kinds[1]:
        return _at(place, f"expected {kinds[0]}, got {kinds[1]}")
    if expected.shape != got.shape:
        return _at(place, f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}")
    wider = torch.float64 if expected.is_floating_point() else expected.dtype
    ours, theirs = (tensor.detach().cpu().to(wider) for tensor in (expected, got))
    if torch.equal(ours, theirs):
        return None
    unequal = ~torch.isclose(ours, theirs, rtol=1e-5, atol=1e-7, equal_nan=True)
    if not unequal.any():
        return None
    where = tuple(unequal.nonzero()[0].tolist())
    values = f"expected {brief(ours[where])}, got {brief(theirs[where])}"
    return _at(f"{place}{list(where)}", f"{values} ({int(unequal.sum())} of {ours.numel()} differ)")


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        kind = {torch.bool: "bool", torch.complex64: "complex", torch.complex128: "complex"}
        floating = "float" if value.is_floating_point() else "int"
        return f"a tensor of {kind.get(value.dtype, floating)}"
    if value is None or isinstance(value, Raised):
        return str(value)
    names = {bool: "True or False", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), f"a {type(value).__name__}")


def brief(value: object) -> str:
    """A value in one line: numbers with 5 digits, long ones shortened."""
    try:
        return _brief(value)
    except Exception:  # of its __repr__; or a list contains itself
        return f"a {type(value).__name__}"


def _brief(value: object) -> str:
    value = _scalar(value)
    if isinstance(value, Tensor):
        if value.numel() > _MOST:
            return f"tensor of shape {tuple(value.shape)}"
        return f"tensor({_brief(value.tolist())})"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, dict):
        parts = [f"{key!r}: {_brief(entry)}" for key, entry in list(value.items())[:_MOST]]
        return "{" + _listed(parts, len(value)) + "}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = [f"{name}={_brief(entry)}" for name, entry in value._asdict().items()]
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, list | tuple):
        parts = [_brief(entry) for entry in value[:_MOST]]
        return ("[{}]" if isinstance(value, list) else "({})").format(_listed(parts, len(value)))
    if isinstance(value, nn.Module):
        parts = [f"{name}: {type(child).__name__}" for name, child in value.named_children()]
        return f"{type(value).__name__}({', '.join(parts)})"
    text = str(value) if isinstance(value, Raised) else " ".join(repr(value).split())
    return text if len(text) <= 300 else f"{text[:300]}..."


def _listed(parts: list[str], count: int) -> str:
    return ", ".join([*parts, "..."] if count > len(parts) else parts)
