"""What all tests share."""

import os

# No test may wait for a hub: a name that is no folder must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"
# Small networks are slower on two threads than on one, and far slower beside other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
