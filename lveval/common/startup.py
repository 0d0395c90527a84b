"""What each command imports first: from here on an interruption, a missing package or too little
memory is one line, while the other modules are imported, too.

    import lveval.common.startup
"""

import sys

# A helper process that multiprocessing spawns imports the command's module again; its end is its
# parent's business. To ask multiprocessing itself would take as long as all the rest here.
if "multiprocessing.spawn" not in sys.modules:
    from lveval.common import interrupts

    interrupts.end_at_once()

    # isort: split
    from lveval.common import errors

    sys.excepthook = errors.end_at
