"""The live page: one process that shows, starts, pauses and ends studies on the loopback."""
