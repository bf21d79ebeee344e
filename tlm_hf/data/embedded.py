"""Encoders embedded in the package (by `scripts/embed_encoder.py`), whose names serve wherever a model's name does."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "pretrained"


def pretrained() -> dict[str, Path]:
    """Folders of the embedded encoders by name, in order; transformers opens one as any other model folder."""
    return {config.parent.name: config.parent for config in sorted(FOLDER.glob("*/config.json"))}


def model_folder(source: str) -> str:
    """The folder of an embedded encoder's name; any other source, and a folder of that name here, as it is."""
    place, folder = Path(source).expanduser(), pretrained().get(source)
    return str(place) if place.exists() else source if folder is None else str(folder)
