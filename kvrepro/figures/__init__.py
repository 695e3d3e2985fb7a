"""Pictures and pages, drawn from tables; nothing is computed here that a table could hold."""
