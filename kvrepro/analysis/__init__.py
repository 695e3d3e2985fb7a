"""What a finished run or a known trace tells: fidelity, tables of methods, kept thoughts, the predictor's effect."""
