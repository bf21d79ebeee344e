"""Plans of many runs, and their reports."""
