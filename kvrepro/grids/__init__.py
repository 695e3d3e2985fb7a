"""All cells of a profile: what a grid plans, where it runs them, and how far it has come."""
