"""What travels to the Hub as remote code: torch and transformers only, flat siblings, relative imports."""
