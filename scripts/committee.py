"""Launcher of `tlm committee`, also for `accelerate launch scripts/committee.py ...`."""

from tlm_hf.commands.committee import main

if __name__ == "__main__":
    main()
