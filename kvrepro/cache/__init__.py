"""The compressed KV cache and what is computed on its slots. Knows no method."""
