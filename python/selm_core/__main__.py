"""`python -m selm_core` is the `selm` command."""

import sys

from selm_core.cli import main

sys.exit(main())
