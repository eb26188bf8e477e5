"""Pictures: pixels, texts, and the run folder that keeps them."""
