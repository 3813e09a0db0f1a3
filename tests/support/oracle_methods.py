"""Serial reference implementation of the epoch-level methods, one sample at a time, for tests.

Written from the papers and the rules in selection/README.md, not from the code. There is no ledger: every
sample keeps the full list of its forward passes, from which each epoch works everything out again. Only the
hash of the draws is the package's own.
"""

import heapq
import math
import re
import statistics
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from kakurenbo_hpc.core.rng import key, uniform

LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Pass:
    """One forward pass. kind: "train", or "look" before an epoch."""

    epoch: int
    kind: str
    loss: float
    probability: float
    el2n: float
    grad_norm: float
    label: int


@dataclass
class Sample:
    id: int
    score: float = math.nan  # of a score or weights file
    label: int = -1  # the same file's
    passes: list[Pass] = field(default_factory=list)
    predicted: float | None = None  # where a method selects by that

    @property
    def last(self):
        return self.passes[-1] if self.passes else None

    @property
    def loss(self):
        if self.predicted is not None:
            return self.predicted
        return self.last.loss if self.passes else math.inf

    @property
    def sane(self):
        """Seen, and its last loss is a number."""
        return bool(self.passes) and math.isfinite(self.last.loss)


def decide(name, options, samples, epoch, total, seed):
    """Return (how often each sample is trained, its weight or None for 1 everywhere)."""
    for s in samples:
        s.predicted = prediction(s, epoch) if options.get("loss") == "predicted" else None
    answer = globals()[name](options, samples, epoch, total, seed)
    return answer if isinstance(answer, tuple) else (answer, None)


def prediction(s, epoch):
    """The line of log loss through the last four finite losses, within their range; None if nothing is
    predicted.
    """
    finite = [p for p in s.passes if math.isfinite(p.loss)][-4:]
    if not s.sane or not finite:
        return None
    if len(finite) == 1:
        return finite[0].loss
    line = statistics.linear_regression(
        [p.epoch for p in finite], [math.log(max(p.loss, 2.0**-24)) for p in finite]
    )
    found = math.exp(min(line.intercept + line.slope * epoch, 200))
    losses = [p.loss for p in finite]
    return float(np.float32(min(max(found, min(losses)), max(losses))))


def coin(seed, purpose, epoch, sample, tick=None):
    """The draw in [0, 1) that belongs to a sample, or to one tick of its clock."""
    copy = 0 if tick is None else np.array([tick])
    return float(uniform(key(seed, purpose, epoch), np.array([sample.id]), copy)[0])


def lowest(samples, n, value):
    """The ids of the n samples of smallest value, ties by id."""
    return {s.id for s in sorted(samples, key=lambda s: (value(s), s.id))[:n]}


def all_but(hidden, samples):
    return [0 if s.id in hidden else 1 for s in samples]


# --- everything, random shares


def everything(o, samples, epoch, total, seed):
    return [1 for _ in samples]


def random(o, samples, epoch, total, seed):
    given = o["fractions"] or [o["fraction"]]
    order = shuffled(samples, seed, "random", epoch)
    n_hidden = math.floor(given[min(epoch, len(given) - 1)] * len(samples))
    return all_but({s.id for s in order[:n_hidden]}, samples)


def shuffled(samples, seed, purpose, number):
    """A permutation: by draws in the ledger's precision, ties by id."""
    return sorted(samples, key=lambda s: (np.float32(coin(seed, purpose, number, s)), s.id))


def random_static(o, samples, epoch, total, seed):
    order = shuffled(samples, seed, "random_static", 0)
    return all_but({s.id for s in order[: math.floor(o["fraction"] * len(samples))]}, samples)


def on_the_road(samples, seed, purpose, start, stop):
    """How often each id stands between start and stop in one permutation of the samples after the other."""
    times, n = {}, len(samples)
    for number in range(start // n, (stop - 1) // n + 1):
        order = shuffled(samples, seed, purpose, number)
        for place, s in enumerate(order, number * n):
            if start <= place < stop:
                times[s.id] = times.get(s.id, 0) + 1
    return times


def rs2(o, samples, epoch, total, seed):
    n = len(samples) - math.floor(o["fraction"] * len(samples))
    times = on_the_road(samples, seed, "rs2", epoch * n, epoch * n + n)
    return [times.get(s.id, 0) for s in samples]


# --- InfoBatch


def infobatch(o, samples, epoch, total, seed):
    if epoch >= o["anneal"] * total:
        return [1 for _ in samples]
    finite = sorted(s.loss for s in samples if math.isfinite(s.loss))
    if not finite:
        return [1] * len(samples), ([1.0] * len(samples) if o["rescale"] else None)
    if o["threshold"] == "mean":
        threshold = float(sum(map(Fraction, finite)) / len(finite))
    else:
        q = float(re.search(r"[\d.]+", o["threshold"])[0])
        threshold = finite[math.floor(q * len(finite))]

    side = []
    for s in samples:
        loss = s.loss if math.isfinite(s.loss) else math.inf
        if s.passes and (loss < threshold if o["prune"] == "below" else loss > threshold):
            side.append(s)
    r = o["prune_ratio"]
    if o["exact_share"]:
        hidden = lowest(
            side, math.floor(r * len(side)), lambda s: np.float32(coin(seed, "infobatch", epoch, s))
        )
    else:
        hidden = {s.id for s in side if coin(seed, "infobatch", epoch, s) < r}
    of_side = {s.id for s in side}
    weights = [1 / (1 - r) if s.id in of_side else 1.0 for s in samples]
    return all_but(hidden, samples), weights if o["rescale"] else None


# --- Selective-Backprop, epoch by epoch


def selective_backprop_epoch(o, samples, epoch, total, seed):
    if o.get("beta") is not None:
        beta = o["beta"]
    else:
        beta = 1 / (o.get("selectivity") or 0.33) - 1
    losses = [s.loss for s in samples if s.sane]
    hidden = set()
    for s in samples:
        if s.sane:
            cdf = sum(other <= s.loss for other in losses) / len(losses)
            if not coin(seed, "selective_backprop", epoch, s) < cdf**beta:
                hidden.add(s.id)
    return all_but(hidden, samples)


# --- draws with replacement


def multinomial(weights, samples, seed, purpose, epoch):
    """N draws: the N earliest ticks of clocks of rate w, ties by (id, tick)."""
    clocks = []
    for w, s in zip(weights, samples):
        if w > 0:
            clocks.append((*_tick(0.0, w, s, 0, seed, purpose, epoch), s, w))
    heapq.heapify(clocks)
    times = {}
    for _ in samples:
        _, _, tick, at, s, w = heapq.heappop(clocks)
        times[s.id] = times.get(s.id, 0) + 1
        heapq.heappush(clocks, (*_tick(at, w, s, tick + 1, seed, purpose, epoch), s, w))
    return [times.get(s.id, 0) for s in samples]


def _tick(before, w, s, tick, seed, purpose, epoch):
    at = before - float(np.log(1 - coin(seed, purpose, epoch, s, tick))) / float(w)
    return np.float32(min(at, LARGEST)), s.id, tick, at


def weighted(weights, samples, seed, purpose, epoch, inverse=False):
    """weights: float or None where nothing is known. inverse: also return 1 / (N P(i)), 0 where P is 0."""
    weights = in_float32(weights)
    most = max([w for w in weights if w is not None], default=1.0)
    weights = [most if w is None else w for w in weights] if most > 0 else [1.0] * len(weights)
    times = multinomial(weights, samples, seed, purpose, epoch)
    if not inverse:
        return times
    total = sum(map(Fraction, weights))
    return times, [float(total / Fraction(w) / len(weights)) if w > 0 else 0.0 for w in weights]


def in_float32(weights):
    """Rounded to 24 bits, at a scale (a power of two, which changes no proportion) where float32 has them."""
    weights = [None if w is None or not math.isfinite(w) else w for w in weights]
    most = max([w for w in weights if w is not None], default=0.0)
    scale = math.frexp(most)[1] if most > 0 else 0
    return [None if w is None else float(np.float32(math.ldexp(w, -scale))) for w in weights]


def nothing_seen(samples):
    return not any(s.passes for s in samples)


def iswr(o, samples, epoch, total, seed):
    if nothing_seen(samples):
        return [1 for _ in samples]
    return weighted(
        [s.loss if s.sane else None for s in samples], samples, seed, "iswr", epoch, o["reweight"]
    )


def prop(o, samples, epoch, total, seed):
    if nothing_seen(samples):
        return [1 for _ in samples]
    p = [(abs(s.loss) + o["epsilon"]) ** o["alpha"] if s.sane else None for s in samples]
    return weighted(p, samples, seed, "prop", epoch)


def rank(o, samples, epoch, total, seed):
    if nothing_seen(samples):
        return [1 for _ in samples]
    p = {}
    for place, s in enumerate(
        sorted([s for s in samples if s.sane], key=lambda s: (-abs(s.loss), s.id)), start=1
    ):
        p[s.id] = (1 / place) ** o["alpha"]
    return weighted([p.get(s.id, None if p else 1.0) for s in samples], samples, seed, "rank", epoch)


def spv(o, samples, epoch, total, seed):
    if epoch < o["burn_in"] or epoch < 2:
        return [1 for _ in samples]
    weights = []
    for s in samples:
        history = [p.probability for p in s.passes if p.kind == "train" and math.isfinite(p.probability)]
        if len(history) < 2 or not s.sane:
            weights.append(None)
        else:
            var = statistics.variance(history)
            weights.append(math.sqrt(var + var**2 / (len(history) - 1)) + o["epsilon"])
    return weighted(weights, samples, seed, "spv", epoch)


# --- sample importance


def sample_importance(o, samples, epoch, total, seed):
    begin = o["pretrain_epochs"]
    if epoch < begin:
        return [1 for _ in samples]
    if o["weights_from"]:
        weights = [None if math.isnan(s.score) else s.score for s in samples]
    elif o["focus"] == "random":
        weights = [focused(coin(seed, "sample_importance_focus", 0, s), o["gamma"]) for s in samples]
    else:
        at = epoch if o["online"] == "epoch" else begin
        weights = [importance(o, s, at) for s in samples]
    weights = in_float32(weights)
    if o["level"] == "class":
        labels = [s.last.label if s.passes else -1 for s in samples]
        members = {c: [w for w, y in zip(weights, labels) if y == c and w is not None] for c in set(labels)}
        # P(c) = its sum, 1 / n_c within: the mean, in the precision of a float32 weight
        of_class = {
            c: float(np.float32(math.fsum(ws) / len(ws))) if ws else None for c, ws in members.items()
        }
        weights = [None if w is None else of_class[y] for w, y in zip(weights, labels)]
    return weighted(weights, samples, seed, "sample_importance", epoch, o["unbiased"])


def importance(o, s, at):
    """What the pass says that the weights of epoch ``at`` on are taken from."""
    if o["weights_pass"] == "fresh":
        passes = [p for p in s.passes if p.kind == "look" and p.epoch <= at]
    else:
        passes = [p for p in s.passes if p.kind == "train" and p.epoch < at]
    if not at and o["weights_pass"] == "lagging":
        passes = []
    if not passes or not math.isfinite(passes[-1].loss):
        return 1.0 if o["gamma"] == 0 else None
    value = getattr(passes[-1], o["metric"])
    if not math.isfinite(value):
        return 1.0 if o["gamma"] == 0 else None
    return focused(1 - value if o["metric"] == "probability" else value, o["gamma"])


def focused(difficulty, gamma):
    try:
        return max(difficulty, 1e-6 if gamma < 0 else 0.0) ** gamma
    except OverflowError:
        return math.inf


# --- moving averages


def averages(o, s, until):
    """Mean and variance over the finite losses of the epochs below ``until``, and whether the last one was
    finite.
    """
    mean = variance = math.nan
    m = o["momentum"]
    known = False
    for p in s.passes:
        if p.epoch >= until:
            break
        known = math.isfinite(p.loss)
        if not known:
            continue
        if math.isnan(mean):
            mean, variance = p.loss, 0.0
        else:
            away = p.loss - mean
            variance = float(np.float32(min(m * variance + (1 - m) * away * away, LARGEST)))
            mean = float(np.float32(m * mean + (1 - m) * p.loss))
    return mean, variance, known


def periodic_score(o, samples, epoch, value):
    """Each sample's score at the last choice: before epoch 1, 1 + every, ..."""
    chosen = epoch - (epoch - 1) % o["every"] if epoch else 0
    scores = {}
    for s in samples:
        mean, variance, known = averages(o, s, chosen)
        scores[s.id] = np.float32(min(value(mean, variance), LARGEST)) if known else np.float32(math.inf)
    return chosen, scores


def ucb(o, samples, epoch, total, seed):
    spread = (lambda v: v) if o["spread"] == "var" else math.sqrt
    _, score = periodic_score(o, samples, epoch, lambda mean, variance: mean + o["c"] * spread(variance))
    n = math.floor(o["fraction"] * len(samples))
    return all_but(lowest([s for s in samples if s.sane], n, lambda s: score[s.id]), samples)


def epsilon_greedy(o, samples, epoch, total, seed):
    chosen, score = periodic_score(o, samples, epoch, lambda mean, variance: mean)
    n = math.floor(o["fraction"] * len(samples))
    n_random = math.floor(o["epsilon"] * (len(samples) - n))
    low = lowest([s for s in samples if s.sane], n + n_random, lambda s: score[s.id])
    members = [s for s in samples if s.id in low]
    spared = lowest(members, n_random, lambda s: np.float32(coin(seed, "epsilon_greedy", chosen, s)))
    return all_but(low - spared, samples)


# --- IES, OrderDP, SeTa, RCAP


def ies(o, samples, epoch, total, seed):
    hidden = set()
    for s in samples:
        loss = [p.loss for p in s.passes]
        if len(loss) < 6 or not all(map(math.isfinite, loss[-5:])):
            continue
        second = [abs(loss[i] - 2 * loss[i - 1] + loss[i - 2]) for i in (-3, -2, -1)]
        if statistics.fmean(second) < o["threshold"]:
            hidden.add(s.id)
    return all_but(hidden if len(hidden) < len(samples) else set(), samples)


def orderdp(o, samples, epoch, total, seed):
    n_drawn = max(1, math.floor(o["drawn"] * len(samples)))
    by_id = {s.id: s for s in samples}
    drawn = [
        by_id[i] for i in lowest(samples, n_drawn, lambda s: np.float32(coin(seed, "orderdp", epoch, s)))
    ]
    hardness = lambda s: math.inf if math.isnan(s.loss) else s.loss  # noqa: E731
    kept = lowest(drawn, max(1, math.floor(o["kept"] * n_drawn)), lambda s: -hardness(s))
    return [1 if s.id in kept else 0 for s in samples]


def seta(o, samples, epoch, total, seed):
    keep = min(max(1 - o["prune_ratio"], 0.1), 1)
    n_drawn = max(1, math.floor(keep * len(samples)))
    order = sorted(samples, key=lambda s: (np.float32(coin(seed, "seta", epoch, s)), s.id))
    drawn = order[:n_drawn] if keep < 1 else samples
    ids = {s.id for s in drawn}
    if epoch and epoch < o["anneal"] * total:
        known = [s for s in drawn if s.sane]
        width = max(1, round(o["groups"] * o["scale"]))
        begin = epoch % (o["groups"] - width + 1)
        group = clusters([s.loss for s in known], o["groups"])
        outside = {s.id for s, g in zip(known, group) if not begin <= g < begin + width}
        ids = ids - outside or ids
    return [1 if s.id in ids else 0 for s in samples]


def clusters(values, n_groups):
    """The group of each value: Lloyd from the quantiles; ties to the lower; an empty group stays."""
    if not values:
        return []
    order = sorted(values)
    centres = [order[(2 * g + 1) * len(order) // (2 * n_groups)] for g in range(n_groups)]
    for _ in range(100):
        group = [sum(v > (a + b) / 2 for a, b in zip(centres, centres[1:])) for v in values]
        moved = []
        for g, centre in enumerate(centres):
            members = [Fraction(v) for v, h in zip(values, group) if h == g]
            moved.append(float(sum(members) / len(members)) if members else centre)
        if moved == centres:
            break
        centres = moved
    return group


def rcap(o, samples, epoch, total, seed):
    labels = [s.last.label if s.passes else -1 for s in samples]
    ceiling = float(np.float32(math.log(max(2, max(labels) + 1))))
    loss = [min(max(s.loss, 0.0), ceiling) if math.isfinite(s.loss) else ceiling for s in samples]
    members = {c: [s for s in samples if labels[s.id] == c] for c in range(-1, max(labels) + 1)}
    size = {c: len(ss) for c, ss in members.items()}
    a = {
        c: math.sqrt(float(sum(Fraction(loss[s.id]) for s in ss)) / len(samples)) for c, ss in members.items()
    }
    k = shares_of(len(samples) - math.floor(o["fraction"] * len(samples)), a, size)

    def order(s):
        u = coin(seed, "rcap", epoch, s)
        race = float(np.log(-np.log(u))) if u > 0 else math.inf
        return np.float32(race - loss[s.id] / o["temperature"])

    trained = set().union(*(lowest(ss, k[c], order) for c, ss in members.items()))
    return [1 if s.id in trained else 0 for s in samples]


def shares_of(n, a, size):
    """Whole numbers that add up to n, in proportion to a, none above the size of its class."""
    real, rest = {}, {c for c in size if size[c]}
    while rest:
        left = n - sum(size[c] for c in size if c not in rest)
        part = {c: a[c] for c in size if c in rest}
        if sum(part.values()) == 0:
            part = {c: size[c] for c in part}
        real = {c: left * p / sum(part.values()) for c, p in part.items()}
        full = {c for c in rest if real[c] > size[c]}
        if not full:
            break
        rest -= full
    real = {c: real[c] if c in rest else size[c] for c in size}
    k = {c: math.floor(x) for c, x in real.items()}
    for c in sorted(real, key=lambda c: (k[c] - real[c], c))[: n - sum(k.values())]:
        k[c] += 1
    return k


# --- static


def static(o, samples, epoch, total, seed):
    sign = 1 if o["keep"] == "highest" else -1
    if o["class_balance"]:
        groups = [[s for s in samples if s.label == c] for c in {s.label for s in samples}]
    else:
        groups = [samples]
    hidden = set()
    for group in groups:
        scored = [s for s in group if not math.isnan(s.score)]
        hidden |= lowest(scored, math.floor(o["fraction"] * len(group)), lambda s: sign * np.float32(s.score))
    if o["budget"] == "epochs":
        return all_but(hidden, samples)
    n, kept = len(samples), [s for s in samples if s.id not in hidden]
    times = on_the_road(kept, seed, "static", epoch * n, epoch * n + n)
    return [times.get(s.id, 0) for s in samples]


# --- batch level: batches[k][rank] are candidates; the answer is, for each rank and k, (rows, weights)


@dataclass
class Candidate:
    """One candidate after its forward pass."""

    id: int
    loss: float
    irreducible: float
    probability: float
    el2n: float
    correct: bool


def for_each_rank(batches, choose):
    """choose(k, rank) gives rows, or (rows, weights)."""
    answers = []
    for rank in range(len(batches[0])):
        of_rank = [choose(k, rank) for k in range(len(batches))]
        answers.append([a if isinstance(a, tuple) else (sorted(a), [1.0] * len(a)) for a in of_rank])
    return answers


def pdd(o, batches, epoch):
    def hard(c):
        if o["threshold"] == 0:
            return not c.correct
        return not c.probability >= float(np.float32(o["threshold"]))

    def choose(k, rank):
        mine, everyone = batches[k][rank], [c for part in batches[k] for c in part]
        if o["variant"] == "dbpd":
            return [i for i, c in enumerate(mine) if hard(c)]
        if o["variant"] == "smrd":
            n = sum(map(hard, everyone))
        else:
            n = math.floor(o["gamma"] ** epoch.number * len(everyone))
        drawn = lowest(everyone, n, lambda c: np.float32(coin(epoch.seed, "pdd", epoch.number, c)))
        return [i for i, c in enumerate(mine) if c.id in drawn]

    return for_each_rank(batches, choose)


def rho_loss(o, batches, epoch):
    def gain(c):
        reducible = float(np.float32(c.loss) - np.float32(c.irreducible))
        return math.inf if math.isnan(reducible) else reducible

    def choose(k, rank):
        mine, everyone = batches[k][rank], [c for part in batches[k] for c in part]
        among = mine if o["scope"] == "rank" else everyone
        best = lowest(among, max(1, math.floor(o["kept"] * len(among))), lambda c: -gain(c))
        return [i for i, c in enumerate(mine) if c.id in best]

    return for_each_rank(batches, choose)


def selective_backprop(o, batches, epoch):
    beta = 1 / o["selectivity"] - 1
    loss = lambda c: math.inf if math.isnan(c.loss) else c.loss  # noqa: E731

    def choose(k, rank):
        past = []
        for batch in batches[: k + 1]:
            new = batch[rank] if o["history_scope"] == "rank" else [c for part in batch for c in part]
            past = (past[-o["history"] :] + [loss(c) for c in new])[-max(o["history"], len(new)) :]
        rows = []
        for i, c in enumerate(batches[k][rank]):
            cdf = sum(other <= loss(c) for other in past) / len(past)
            if o["calculator"] == "random":
                cdf = coin(epoch.seed, "random percentile", epoch.number, c)
            if coin(epoch.seed, "selective_backprop", epoch.number, c) < cdf**beta:
                rows.append(i)
        return rows

    return for_each_rank(batches, choose)


def kath18(o, batches, epoch):
    """b draws of a rank's B candidates, the j-th by the draw of its j-th candidate."""

    def choose(k, rank):
        mine = batches[k][rank]
        g = [c.loss if o["score"] == "loss" else c.el2n for c in mine]
        most = max([x for x in g if math.isfinite(x)], default=0.0)
        g = [max(x, 0.0) if math.isfinite(x) else max(most, 0.0) for x in g]
        if not sum(g):
            g = [1.0] * len(g)
        rows = []
        for c in mine[: max(1, round(len(mine) / o["presample"]))]:
            left = coin(epoch.seed, "kath18", epoch.number, c) * sum(g)
            row = 0
            while row < len(g) - 1 and left >= g[row]:
                left, row = left - g[row], row + 1
            rows.append(row)
        weights = [sum(g) / (len(g) * g[row]) if o["reweight"] else 1.0 for row in rows]
        return rows, weights

    return for_each_rank(batches, choose)


CHOICES = {"pdd": pdd, "rho_loss": rho_loss, "selective_backprop": selective_backprop, "kath18": kath18}
