"""From a reply to its answer as written: boxes, announcements, last sentences, letters."""
