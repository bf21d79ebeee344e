"""Launcher of `tlm predict`, also for `accelerate launch scripts/predict.py ...`."""

from tlm_hf.commands.predict import main

if __name__ == "__main__":
    main()
