"""`python -m pruning_lab` is `pruning-lab`."""

import os
import sys

from pruning_lab.cli import main

if __name__ == "__main__":
    if sys.path[0] == os.getcwd():  # as -m puts it: a sklearn.py in this folder would be run
        sys.path.append(sys.path.pop(0))
    sys.exit(main())
