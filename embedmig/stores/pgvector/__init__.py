"""The store in PostgreSQL.

``table``            a space as a table of its own: manifest and vectors in one
``adopted``          a space that was there before embedmig, in a column of the source table
``search``           the nearest vectors of one relation
``index``            building the HNSW index, and its state
``hnsw``             the forms that an index may have
``build_resources``  what a build needs of the server's machine
``extension``        the extension ``vector``
"""
