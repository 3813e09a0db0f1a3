"""``python -m kakurenbo_hpc.cli``, as batch scripts and launchers start it."""

from . import main

main()
