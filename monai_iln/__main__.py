"""``python -m monai_iln`` is ``monai-iln``."""

import sys

from monai_iln.cli import main

sys.exit(main())
