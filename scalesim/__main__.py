"""`python -m scalesim` is the `scalesim` command."""

import sys

from scalesim.cli import main

sys.exit(main())
