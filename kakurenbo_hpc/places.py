"""Stub, to be replaced by the launcher's author."""
from pathlib import Path
def find_job(path): return Path(path)
