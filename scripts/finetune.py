"""Launcher of `tlm finetune` for `accelerate launch scripts/finetune.py ...`."""

import sys

from tlm_hf.commands.main import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
