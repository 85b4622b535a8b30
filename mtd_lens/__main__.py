"""``python -m mtd_lens``."""

from mtd_lens.cli import main

main()
