"""Problems and their golds: where rows come from, how they are asked. Knows no model and no method."""
