"""What methods read beside the weights: importance heads, eviction judges, query statistics."""
