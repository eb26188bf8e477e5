"""Cells painted here, with diffusers."""

import logging
import os

# What the libraries say of themselves while they are imported is nothing to whoever asked.
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
for _name in ("torch.utils._pytree", "bitsandbytes"):
    logging.getLogger(_name).setLevel(logging.ERROR)
