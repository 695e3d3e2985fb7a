"""ForesightKV's eviction judge."""
