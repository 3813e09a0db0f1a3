#!/usr/bin/env bash
# Builds Horovod for the active Python environment, against its torch and the MPI that mpi4py loads, and installs it:
# scripts/install_horovod.sh [SOURCE]
#
# SOURCE: what pip can build from: a folder, the address of an archive, git+https://github.com/horovod/horovod@COMMIT; version
# 0.28.1 if not given. The wheel is kept in $KAKURENBO_CACHE, or ~/.cache/kakurenbo, in a folder named by what it was built from.
# With a torch for GPUs, gradients travel by NCCL; HOROVOD_NCCL_HOME and its kin say where that is.
set -euo pipefail

source=${1:-horovod==0.28.1}
cache=${KAKURENBO_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kakurenbo}

complain() {
    echo "install_horovod: $*" >&2
    exit 1
}

ask() {
    python -c "$1" 2>/dev/null
}

# Where the MPI library lies that mpi4py loads; MPI itself is not started, which some login nodes forbid.
find_libmpi() {
    ask '
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
from kakurenbo_hpc.world.libmpi import loaded
print(*loaded())'
}

# Its compiler stands beside it, or first on the PATH: whichever links with this very library.
find_mpicxx() {
    local mpicxx
    for mpicxx in "$(dirname -- "$(dirname -- "$1")")/bin/mpicxx" "$(command -v mpicxx)"; do
        if [ -x "$mpicxx" ] && links_with "$mpicxx" "$1"; then
            echo "$mpicxx"
            return
        fi
    done
}

links_with() {
    echo 'int MPI_Init(int *, char ***); int main() { return MPI_Init(0, 0); }' >"$work/it.c"
    "$1" -x c "$work/it.c" -o "$work/it" 2>/dev/null || return 1
    [ "$(realpath -- "$(LD_LIBRARY_PATH=$(dirname -- "$2"):${LD_LIBRARY_PATH:-} ldd "$work/it" | sed -n 's/.* => \(.*libmpi[^ ]*\) .*/\1/p')")" = "$(realpath -- "$2")" ]
}
