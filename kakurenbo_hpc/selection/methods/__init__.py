"""One file, one method, one page."""
