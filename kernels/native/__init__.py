"""The decode step for a CPU, compiled on the machine it runs on; what it computes is what the torch decoders compute."""
