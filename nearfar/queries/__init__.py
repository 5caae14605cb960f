"""The table of store commands, one file per command.

To add a command: write one file with its function, and add its line to `QUERIES`. Its flags and its help come
from the signature and the docstring (first line, `Example:` and `Args:`); its tests follow from the table.
Nothing here imports torch.
"""

QUERIES = {
    "search": "search",
    "label-errors": "label_errors",
    "classes": "classes",
    "suggest": "suggest",
    "anomalies": "anomalies",
    "duplicates": "duplicates",
    "clusters": "clusters",
    "curate": "curate",
    "map": "image_map",
    "export": "export",
}
"""Name of the command, which with _ for - is also the file's, to the function in it."""
