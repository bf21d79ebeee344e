"""Launcher of `tlm finetune`, also for `accelerate launch scripts/finetune.py ...`."""

from tlm_hf.commands.finetune import main

if __name__ == "__main__":
    main()
