"""A frozen committee behind HTTP: `FROZEN=FOLDER uvicorn app:app --workers 4`, then POST {"texts": [...]} to /classify.

Workers share the tables in memory, since they are mapped from the file.
"""

import os

from fastapi import FastAPI
from pydantic import BaseModel

from tlm_hf.runtime import load

app = FastAPI(title="Frozen committee")
model = load(os.environ["FROZEN"])


class Texts(BaseModel):
    """What is posted."""

    texts: list[str]


@app.post("/classify")
def classify(body: Texts) -> list[dict[str, str | float | bool]]:
    """Label, score and whether the text was cut, for each text."""
    return model(body.texts)
