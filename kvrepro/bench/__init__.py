"""How fast: one decode step and whole replies, beside other engines and beside what the hardware allows."""
