"""The command line: looking into a data directory, and repairing one that nobody uses.

Reading works beside a running runtime, on copies of the files; what writes needs the directory
for itself. Layers, lowest first: `failures`, `output`, `values` (words), `copies`, `directory`,
`logs` (finding and reading), the commands, `main` (arguments).
"""
