"""`python -m pruning_lab` is `pruning-lab`."""

import sys

from pruning_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
