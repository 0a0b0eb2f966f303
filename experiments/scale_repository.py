"""`python -m experiments.scale_repository` runs `experiments.bench.repository`."""

import sys

from experiments.bench.repository import main

if __name__ == "__main__":
    sys.exit(main())
