"""Data sets by name, one file each: an options model that opens it, and its samples.

A new data set needs no more than a new file: ``data/__init__.py`` scans this folder for names.
"""
