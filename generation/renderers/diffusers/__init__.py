"""Cells painted here, with diffusers."""
