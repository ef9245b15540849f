"""`python -m tests.fuzz`: see `engine.py`."""

import sys

from tests.fuzz.engine import main

sys.exit(main())
