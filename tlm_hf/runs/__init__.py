"""One command, one output folder: its record, its checkpoints, its provenance, its workers."""
