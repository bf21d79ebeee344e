"""The commands: a table of them, one parser, one call each."""
