"""`python -m recsys …` is `recsys …`."""

import sys

from recsys.commands.cli import main

sys.exit(main())
