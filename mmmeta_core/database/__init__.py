"""The two databases of a metadir. All SQL that writes is in this package.

`catalog`: `meta.db`, published metadata. `state`: `state.db`, the same merged with a client's own columns.
"""
