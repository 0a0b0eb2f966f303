"""`python -m experiments.compile_check` runs `experiments.pods.compile_check`."""

import sys

from experiments.pods.compile_check import main

if __name__ == "__main__":
    sys.exit(main())
