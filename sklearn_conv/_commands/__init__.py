"""The commands `sklearn-conv features` and `sklearn-conv classify`.

A command is a function in `features` or `classify`, which uses only what is public. Its parameters
are options, and its docstring is the help. The parameters of the functions and classes that it
calls become options as well: `options` derives them from signatures and docstrings. `main` is the
entry, and `program` runs a command and turns errors into single lines; `console` shows the
progress; `files` reads images and writes models; `evaluation` validates a classifier, and `report`
writes the result as HTML.
"""

INSTALL = 'run pip install "sklearn-conv[commands,images,parquet,plot]"'
"""How to install all that the commands use."""
