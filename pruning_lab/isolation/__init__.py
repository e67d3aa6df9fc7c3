"""A function of a student's, called so that nothing it does outlasts the call.

`Guarded` calls it in this process, as a notebook's check does; `Worker` and its `Remote` in a
process of its own, where it sees no files and no network, as a grader does.
"""

from pruning_lab.isolation.calls import (
    Blocked,
    Ended,
    Guarded,
    Raised,
    TimeUp,
    raised,
    seed,
    untouched,
)
from pruning_lab.isolation.remote import Definition, Remote, Worker

__all__ = ["Blocked", "Definition", "Ended", "Guarded", "Raised", "Remote", "TimeUp", "Worker"]
__all__ += ["raised", "seed", "untouched"]
