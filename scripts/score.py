"""Launcher of `tlm score`, also for `accelerate launch scripts/score.py ...`."""

from tlm_hf.commands.score import main

if __name__ == "__main__":
    main()
