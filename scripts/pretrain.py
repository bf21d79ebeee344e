"""Launcher of `tlm pretrain` for `accelerate launch scripts/pretrain.py ...`."""

import sys

from tlm_hf.commands.main import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
