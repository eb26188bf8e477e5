"""Paints with ComfyUI servers, by the user's workflow or a built-in one, and with SwarmUI."""
