"""Eviction methods: each is a small file that only scores."""
