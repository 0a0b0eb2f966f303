"""`python -m experiments.check_golden` runs `experiments.reference.check_golden`."""

import sys

from experiments.reference.check_golden import main

if __name__ == "__main__":
    sys.exit(main())
