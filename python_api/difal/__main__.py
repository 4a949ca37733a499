"""`python -m difal`, and so `torchrun -m difal`, is the command `difal`."""

from difal.cli import main
from difal.ranks import leave

if __name__ == "__main__":
    leave(main())
