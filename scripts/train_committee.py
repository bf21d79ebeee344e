"""Launcher of `tlm train-committee`, also for `accelerate launch scripts/train_committee.py ...`."""

from tlm_hf.commands.train_committee import main

if __name__ == "__main__":
    main()
