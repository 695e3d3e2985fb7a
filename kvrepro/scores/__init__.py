"""From graded replies to numbers: Pass@1, intervals, paired tests, power, published scores."""
