"""A finished study as tables, plots and one HTML page."""
