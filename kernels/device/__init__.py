"""The Triton code, one module per kernel. Imported only when a kernel runs or is compiled; `..launch` does that."""
