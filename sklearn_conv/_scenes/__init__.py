"""Scenes and slides that are cut into tiles.

`tiles` has the tiles and puts values of tiles into a map. `sources` has one class for each kind of
scene, all with the interface of `sources.Scene`; `sources.open_scene` chooses the class.
"""
