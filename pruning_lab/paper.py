"""The numbers of Han et al., "Learning both Weights and Connections" (NIPS 2015, 1506.02626v3).

Densities and errors are fractions in [0, 1]; counts are rounded as the paper prints them.
"""

from collections import namedtuple
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One network of Table 1: before and after pruning. `parameters` count biases."""

    network: str
    dense_error: float
    dense_top5_error: float | None
    dense_parameters: float
    error: float
    top5_error: float | None
    parameters: float
    compression: float  # dense_parameters / parameters, as printed


@dataclass(frozen=True)
class LayerRow:
    """One row of Tables 2-5. `weights` and `flops` are of the dense layer, biases not counted."""

    layer: str
    weights: float
    flops: float  # per image; a multiply and an add
    activation_density: float  # fraction of nonzero outputs, after ReLU and pooling
    density: float  # fraction of its weights that are kept
    flop_density: float  # fraction of its operations that are left


# A row of Table 6: a method that makes AlexNet smaller.
Rival = namedtuple("Rival", "method top1_error top5_error parameters compression")

K, M, G = 1e3, 1e6, 1e9

TABLE_1 = {
    "lenet-300-100": Result("LeNet-300-100", 0.0164, None, 267 * K, 0.0159, None, 22 * K, 12),
    "lenet-5": Result("LeNet-5", 0.0080, None, 431 * K, 0.0077, None, 36 * K, 12),
    "alexnet": Result("AlexNet", 0.4278, 0.1973, 61 * M, 0.4277, 0.1967, 6.7 * M, 9),
    "vgg-16": Result("VGG-16", 0.3150, 0.1132, 138 * M, 0.3134, 0.1088, 10.3 * M, 13),
}

LENET_300_100 = (  # Table 2
    LayerRow("fc1", 235 * K, 470 * K, 0.38, 0.08, 0.08),
    LayerRow("fc2", 30 * K, 60 * K, 0.65, 0.09, 0.04),
    LayerRow("fc3", 1 * K, 2 * K, 1.00, 0.26, 0.17),
    LayerRow("total", 266 * K, 532 * K, 0.46, 0.08, 0.08),
)

LENET_5 = (  # Table 3
    LayerRow("conv1", 0.5 * K, 576 * K, 0.82, 0.66, 0.66),
    LayerRow("conv2", 25 * K, 3200 * K, 0.72, 0.12, 0.10),
    LayerRow("fc1", 400 * K, 800 * K, 0.55, 0.08, 0.06),
    LayerRow("fc2", 5 * K, 10 * K, 1.00, 0.19, 0.10),
    LayerRow("total", 431 * K, 4586 * K, 0.77, 0.08, 0.16),
)

ALEXNET = (  # Table 4
    LayerRow("conv1", 35 * K, 211 * M, 0.88, 0.84, 0.84),
    LayerRow("conv2", 307 * K, 448 * M, 0.52, 0.38, 0.33),
    LayerRow("conv3", 885 * K, 299 * M, 0.37, 0.35, 0.18),
    LayerRow("conv4", 663 * K, 224 * M, 0.40, 0.37, 0.14),
    LayerRow("conv5", 442 * K, 150 * M, 0.34, 0.37, 0.14),
    LayerRow("fc1", 38 * M, 75 * M, 0.36, 0.09, 0.03),
    LayerRow("fc2", 17 * M, 34 * M, 0.40, 0.09, 0.03),
    LayerRow("fc3", 4 * M, 8 * M, 1.00, 0.25, 0.10),
    LayerRow("total", 61 * M, 1.5 * G, 0.54, 0.11, 0.30),
)

VGG_16 = (  # Table 5
    LayerRow("conv1_1", 2 * K, 0.2 * G, 0.53, 0.58, 0.58),
    LayerRow("conv1_2", 37 * K, 3.7 * G, 0.89, 0.22, 0.12),
    LayerRow("conv2_1", 74 * K, 1.8 * G, 0.80, 0.34, 0.30),
    LayerRow("conv2_2", 148 * K, 3.7 * G, 0.81, 0.36, 0.29),
    LayerRow("conv3_1", 295 * K, 1.8 * G, 0.68, 0.53, 0.43),
    LayerRow("conv3_2", 590 * K, 3.7 * G, 0.70, 0.24, 0.16),
    LayerRow("conv3_3", 590 * K, 3.7 * G, 0.64, 0.42, 0.29),
    LayerRow("conv4_1", 1 * M, 1.8 * G, 0.51, 0.32, 0.21),
    LayerRow("conv4_2", 2 * M, 3.7 * G, 0.45, 0.27, 0.14),
    LayerRow("conv4_3", 2 * M, 3.7 * G, 0.34, 0.34, 0.15),
    LayerRow("conv5_1", 2 * M, 925 * M, 0.32, 0.35, 0.12),
    LayerRow("conv5_2", 2 * M, 925 * M, 0.29, 0.29, 0.09),
    LayerRow("conv5_3", 2 * M, 925 * M, 0.19, 0.36, 0.11),
    LayerRow("fc6", 103 * M, 206 * M, 0.38, 0.04, 0.01),
    LayerRow("fc7", 17 * M, 34 * M, 0.42, 0.04, 0.02),
    LayerRow("fc8", 4 * M, 8 * M, 1.00, 0.23, 0.09),
    LayerRow("total", 138 * M, 30.9 * G, 0.64, 0.075, 0.21),
)

LAYER_TABLES = dict(zip(TABLE_1, (LENET_300_100, LENET_5, ALEXNET, VGG_16), strict=True))
TABLE_NUMBERS = dict(zip(TABLE_1, (2, 3, 4, 5), strict=True))

TABLE_6 = (
    Rival("Baseline Caffemodel", 0.4278, 0.1973, 61.0 * M, 1),
    Rival("Data-free pruning", 0.4440, None, 39.6 * M, 1.5),
    Rival("Fastfood-32-AD", 0.4193, None, 32.8 * M, 2),
    Rival("Fastfood-16-AD", 0.4290, None, 16.4 * M, 3.7),
    Rival("Collins & Kohli", 0.4440, None, 15.2 * M, 4),
    Rival("Naive cut", 0.4718, 0.2323, 13.8 * M, 4.4),
    Rival("SVD", 0.4402, 0.2056, 11.9 * M, 5),
    Rival("Network pruning", 0.4277, 0.1967, 6.7 * M, 9),
)

# Figure 1: energy of one operation in a 45 nm process, picojoules.
ENERGY_PJ = {
    "32 bit int ADD": 0.1,
    "32 bit float ADD": 0.9,
    "32 bit register file": 1.0,
    "32 bit int MULT": 3.1,
    "32 bit float MULT": 3.7,
    "32 bit SRAM cache": 5.0,
    "32 bit DRAM memory": 640.0,
}

# Sections 3-5, in the text.
RETRAIN_LR_FACTOR = {"lenet-300-100": 1 / 10, "lenet-5": 1 / 10, "alexnet": 1 / 100}
INDEX_BITS = {"conv": 8, "fc": 5}
FC1_BANDS = 28  # Figure 4: one band of the first matrix per row of pixels of an MNIST image
# Figure 5, in the text: how many times fewer weights AlexNet has before its top-5 accuracy falls.
FREE_COMPRESSION = {"not retrained": 2, "cut once": 5, "in rounds": 9}
