"""Runs the parts together on one machine: the `edgeloop` command line, the local stack, the demo.

- `cli`: one module per command family. `printing` says how values are printed.
- `demo`: a simulated fleet in which the loop has to learn, with a report. `replay`: a recording instead.
- `stack`: broker, workers and model service under one owner. `process`: child processes, ports, a proxy.
- `kafka`: jars, broker, topics, offsets, messages and lag.
- `labels`: labels from people, on their way into the lake. `drafting`: a first profile from a CSV file.
- `audit`: the books from three places. `line_watch`: observes a running line. `doctor`: checks this machine.
- `fleet_client`: calls the model service. `registry_reader`, `model_lineage`: read without it.
- `factory`: builds the models that ship with every device.
"""
