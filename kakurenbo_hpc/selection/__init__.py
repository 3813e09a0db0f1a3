"""Selection methods: the table of their names. Imports neither torch nor MPI, for a fast command line."""

from .method import Method
from .methods.epsilon_greedy import EpsilonGreedy
from .methods.everything import Everything
from .methods.infobatch import InfoBatch
from .methods.iswr import Iswr
from .methods.kakurenbo import Kakurenbo
from .methods.kath18 import Kath18
from .methods.prop import Prop
from .methods.random import Random
from .methods.random_static import RandomStatic
from .methods.rank import Rank
from .methods.rs2 import Rs2
from .methods.sample_importance import SampleImportance
from .methods.selective_backprop import SelectiveBackprop
from .methods.selective_backprop_epoch import SelectiveBackpropEpoch
from .methods.spv import Spv
from .methods.static import Static
from .methods.ucb import Ucb

METHODS: dict[str, type[Method]] = {
    "everything": Everything,
    "random": Random,
    "random_static": RandomStatic,
    "rs2": Rs2,
    "kakurenbo": Kakurenbo,
    "infobatch": InfoBatch,
    "selective_backprop": SelectiveBackprop,
    "selective_backprop_epoch": SelectiveBackpropEpoch,
    "kath18": Kath18,
    "iswr": Iswr,
    "sample_importance": SampleImportance,
    "spv": Spv,
    "prop": Prop,
    "rank": Rank,
    "ucb": Ucb,
    "epsilon_greedy": EpsilonGreedy,
    "static": Static,
}
