"""`python -m textrl_benchmarks` is the command `textrl`."""

import sys

from textrl_benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
