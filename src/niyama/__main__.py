"""`python -m niyama`, the same as the command `niyama`."""

import sys

from niyama.cli import main

if __name__ == "__main__":
    sys.exit(main())
