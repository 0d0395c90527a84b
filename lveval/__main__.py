"""The command `lveval` in a checkout that is not installed: python -m lveval report --input-dir
outputs/chatglm3.
"""

from lveval.cli import main
from lveval.common.errors import run_cli

if __name__ == "__main__":
    run_cli(main)
