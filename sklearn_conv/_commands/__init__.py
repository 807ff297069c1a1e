"""The commands `sklearn-conv features` and `sklearn-conv classify`.

`main.main` parses the command line, and turns errors and warnings into single lines. `features` and
`classify` do the work, with the public functions and classes of this package only: `reading` reads
the images, `evaluation` validates a model, and `report` writes the result as HTML with the pictures
that `pictures` draws. `options` generates options from signatures and docstrings, `messages`
translates names of parameters to names of options, `console` shows the progress, and `files` checks
and writes files. `pictures` is the only module that imports matplotlib.
"""
