"""`tlm serve`: a frozen committee behind HTTP. `examples/serve/app.py` is the same app for several workers."""

import contextlib
import socket
from dataclasses import dataclass
from typing import Annotated, Any

from ..errors import UserError, check_installed, check_range, refusing
from ..option_fields import option
from ..runtime import FrozenRuntime, load


@dataclass
class ServeArguments:
    """Options of `tlm serve`."""

    model: str = option("", "Folder that tlm train-committee or tlm freeze wrote.")
    host: str = option("127.0.0.1", "Address to listen at.")
    port: int = option(8000, "Port; 0 for any that is free.")


def build_app(model: FrozenRuntime) -> Any:
    """A FastAPI app: `POST /classify` of `{"texts": [...]}` gives what the runtime answers to each text or pair."""
    from fastapi import Body, FastAPI, HTTPException

    app = FastAPI(title="Frozen committee")

    @app.post("/classify")
    def classify(texts: Annotated[list[str | tuple[str, str]], Body(embed=True)]) -> list[dict[str, Any]]:
        """For each text its label and score, its labels or its value (by the model's kind), and whether it was cut."""
        try:
            return model(texts)  # type: ignore[no-any-return]
        except ValueError as error:  # the client's mistake
            raise HTTPException(422, str(error)) from error

    return app


def serve(arguments: ServeArguments) -> None:
    """Answer over HTTP from a frozen committee until Ctrl-C."""
    check_installed("fastapi", "uvicorn")
    check_range(arguments, 0, 65535, "port")
    import uvicorn

    try:
        app = build_app(load(arguments.model))
    except ValueError as error:
        raise UserError(f"serve needs a frozen committee, but {error}") from error
    where = f"{arguments.host}:{arguments.port}"
    with refusing(f"Nothing can listen at {where}", "give another --host or --port", OSError):
        listener = socket.create_server((arguments.host, arguments.port))
    address = f"http://{arguments.host}:{listener.getsockname()[1]}/classify"
    print(f'{address} answers POST {{"texts": ["..."]}}; Ctrl-C ends it.', flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
