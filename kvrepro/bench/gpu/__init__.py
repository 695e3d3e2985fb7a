"""`kvrepro gpu-check`: each part in a process of its own, rows written as they come, one JSON file that grows.

`plan` says which processes there are, `supervisor` runs them, `report` holds the file, `verdict` reads it; `child` is
the process, `rows` its writer, and the other modules are what it measures.
"""
