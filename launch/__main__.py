"""`python -m launch JOB ...` and `torchrun -m launch JOB ...`: the same as `longtake JOB ...`."""

import sys

from launch.cli import main

if __name__ == "__main__":
    sys.exit(main())
