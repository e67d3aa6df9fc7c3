"""Sparse inference: layers that compute from their non-zero weights, timed; exports.

network = sparse.to_sparse(model, mask, example=(1, 28, 28))
print(network.choices)
print(sparse.bench(model, (1, 28, 28)).verdicts)
"""

from pruning_lab.sparse.bench import Bench, bench
from pruning_lab.sparse.choosing import Choices, SparseRow, Spread, example_images, timed, to_sparse
from pruning_lab.sparse.exports import Exported, to_onnx, to_torch
from pruning_lab.sparse.layers import SparseConv2d, SparseLinear

__all__ = ["Bench", "Choices", "Exported", "SparseConv2d", "SparseLinear", "SparseRow", "Spread"]
__all__ += ["bench", "example_images", "timed", "to_onnx", "to_sparse", "to_torch"]
