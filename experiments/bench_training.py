"""`python -m experiments.bench_training` runs `experiments.bench.training`."""

import sys

from experiments.bench.training import main

if __name__ == "__main__":
    sys.exit(main())
