"""python -m tinygrad_norm"""

import sys

from .cli import main

sys.exit(main())
