"""DynTS' importance head: label maps, losses, training, ranking."""
