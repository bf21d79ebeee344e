"""The Hub side: cards and staged folders."""
