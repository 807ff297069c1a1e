"""Batches of images: what X may be, how it is checked and read, and what is probably a mistake.

`kinds.check_images` checks X and returns an object of a class in `kinds.KINDS`. To support another
kind of X, write a subclass of `kinds.Images` with the methods ``accepts``, ``convert`` and
``read``, and put it into this list.
"""
