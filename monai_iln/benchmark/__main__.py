"""``python -m monai_iln.benchmark`` is ``monai-iln benchmark``."""

import sys

from monai_iln.cli import main

sys.exit(main(["benchmark", *sys.argv[1:]]))
