"""`python -m difal_kernels.select` is the command `difal-select`."""

import sys

from .main import main

sys.exit(main())
