"""Launcher of `tlm pretrain`, also for `accelerate launch scripts/pretrain.py ...`."""

from tlm_hf.commands.pretrain import main

if __name__ == "__main__":
    main()
