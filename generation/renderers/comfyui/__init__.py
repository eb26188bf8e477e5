"""Paints with ComfyUI servers: the user's workflow, or a built-in one."""
