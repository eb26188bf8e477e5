"""Picture metrics, one family per file."""
