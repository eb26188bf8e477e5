"""The two commands: what people type, and what they are told. Nothing imports this room."""
