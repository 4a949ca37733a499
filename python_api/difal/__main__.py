"""`python -m difal`, and so `torchrun -m difal`, is the command `difal`."""

import sys

from difal.cli import main

if __name__ == "__main__":
    sys.exit(main())
