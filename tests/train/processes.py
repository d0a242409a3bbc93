"""One of several processes, as ``torchrun`` would start it: does several runs of the command line in turn.

Usage: python processes.py ARGUMENTS.json, a list of argument lists. Starting once saves the imports of the others.
"""

import json
import sys
from pathlib import Path

from core.train.cli import main

if __name__ == "__main__":
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        main(arguments)
