"""Pages of finished runs, to be opened from disk or copied to any web server: all links relative, nothing fetched."""
