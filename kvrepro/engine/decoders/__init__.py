"""One decode step of a model: as transformers runs it, fused, compiled for the CPU, or in a CUDA graph."""
