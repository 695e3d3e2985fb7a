"""The decode step for a CPU in C++, compiled on the machine it runs on; the torch decoders define what is correct."""
