"""Speed and memory: decode steps, replies, methods and training, beside other code and what the hardware allows."""
