"""Which models there are, how they are identified, loaded and made."""
