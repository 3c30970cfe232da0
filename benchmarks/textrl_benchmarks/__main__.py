"""`python -m textrl_benchmarks` is the command `textrl`."""

import sys

from textrl_benchmarks.cli import main

sys.exit(main())
