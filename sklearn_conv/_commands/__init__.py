"""The commands `sklearn-conv features` and `sklearn-conv classify`.

A command is a function in `features` or `classify`, which uses only what is public. Its parameters
are options, and its docstring is the help. The parameters of the functions and classes that it
calls become options as well: `options` derives them from signatures and docstrings, and has what
both commands share. `main` runs a command, and turns errors into single lines; `console` shows the
progress; `report` validates a classifier and writes the result as HTML.
"""
