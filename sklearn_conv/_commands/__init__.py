"""The commands `sklearn-conv features`, `classify`, `regress`, `predict`, `map` and `show`.

A command is a function in the module of its name, which uses only what is public. Its parameters
are options, and its docstring is the help. The parameters of the functions and classes that it
calls become options as well: `options` derives them from signatures and docstrings, and has what
the commands share. `main` runs a command, and turns errors into single lines; `console` shows the
progress; `report` validates a model and writes the result as HTML; `model_file` saves and loads
models. What `classify` and `regress` share is in `classify`.
"""
