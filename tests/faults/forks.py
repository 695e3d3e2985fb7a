"""The fork server of the trials: that of a grid, around an engine that runs nothing."""

from __future__ import annotations

from kvrepro.runs import fork_server

from .engine import install

if __name__ == "__main__":
    install()
    fork_server.main()
