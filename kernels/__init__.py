"""Device kernels and their torch twins; imported as `kvrepro.kernels`.

The version is here because transformers asks an importable `kernels` for one (this folder is importable
under that name from the repository root).
"""

__version__ = "0.1.0"
