"""Networks that tests share: small enough to check by hand, odd enough to break things."""

import torch
from torch import nn

CLASSES = 4


class Branching(nn.Module):
    """What a user may bring: a residual branch, a grouped convolution, batch norm, no chain."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Sequential(
            nn.Conv2d(4, 4, kernel_size=3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 4, 1)
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.block(x)).relu()[:, :, ::4, ::4]
        return self.head(x.flatten(1))


def lively(model: nn.Module) -> nn.Module:
    """With smaller biases an untrained network's answer depends on the image."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(0.1)
    return model
