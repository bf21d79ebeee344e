"""A frozen committee behind HTTP: `FROZEN=FOLDER uvicorn app:app --workers 4`, then POST {"texts": [...]} to /classify.

Workers share the tables in memory, since they are mapped from the file. `tlm serve FOLDER` is the same with one worker.
"""

import os

from tlm_hf.commands.serve import build_app
from tlm_hf.runtime import load

app = build_app(load(os.environ["FROZEN"]))
