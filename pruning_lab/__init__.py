"""pruning_lab: learn and do neural-network weight pruning (Han et al. 2015).

    import pruning_lab as lab
    mask = lab.prune(model, density=0.1)

Modules and main functions are loaded when first used; `dir(lab)` lists them. `__init__.pyi` is for
editors and type checkers.
"""

import importlib

__version__ = "0.3.0"

_MODULES = (
    *("paper", "provenance", "rows", "files", "processes", "layers", "criteria"),
    *(
        "masks",
        "isolation",
        "models",
        "data",
        "evaluation",
        "checkpoints",
        "training",
        "counts",
        "neurons",
        "storage",
        "sparse",
        "cost",
        "sensitivity",
    ),
    *(
        "retraining",
        "experiments",
        "plots",
        "reports",
        "exercises",
        "course",
        "studio",
        "widgets",
        "cli",
    ),
)
_HOMES = {
    **dict.fromkeys(("Mask", "prune"), "masks"),
    "evaluate": "evaluation",
    **dict.fromkeys(("TrainConfig", "train"), "training"),
    **dict.fromkeys(("choose", "scan"), "sensitivity"),
    "Studio": "studio",
}
__all__ = ["__version__", *sorted((*_HOMES, *_MODULES))]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; dir() lists what it has")


def __dir__() -> list[str]:
    return __all__
