"""Does an answer equal the gold: by structure, by value, and last by math-verify's opinion."""
