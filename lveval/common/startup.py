"""What each command imports first: from here on an interruption, a missing package or too little
memory is one line, while the other modules are imported, too.

    from lveval.common import startup  # isort: split
"""

import multiprocessing
import sys

from lveval.common import errors, interrupts

# A helper process that multiprocessing spawns imports the command's module again; its end is its
# parent's business.
if multiprocessing.parent_process() is None:
    interrupts.listen()
    sys.excepthook = errors.end_at
