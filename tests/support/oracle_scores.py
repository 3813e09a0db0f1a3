"""Serial reference implementation of scores, one sample at a time, for tests. Written from the papers."""

import itertools
import math
import statistics

import numpy as np


def residual(p, y):
    return [x - (c == y) for c, x in enumerate(p)]


def norm(x):
    return math.sqrt(sum(float(one) ** 2 for one in x))


# --- of the outputs for one sample: p (C,), h (D,), y

OF_OUTPUTS = {
    "least_confidence": lambda p, h, y: 1 - max(p),
    "entropy": lambda p, h, y: -sum(x * math.log(x) for x in p if x > 0),
    "margin": lambda p, h, y: sorted(p)[-2] - max(p),
    "el2n": lambda p, h, y: norm(residual(p, y)),
    "grand": lambda p, h, y: norm(np.outer(residual(p, y), [*h, 1]).ravel()),
}


# --- of the training passes of one sample: p_y, margin and correctness by epoch


def forgetting(p, margin, correct, window):
    if not any(correct):
        return len(correct) + 1.0
    return float(sum(was and not now for was, now in itertools.pairwise(correct)))


def windows(p, window):
    return [p[i : i + window] for i in range(len(p) - window + 1)]


def dyn_unc(p, margin, correct, window):
    return statistics.fmean(map(statistics.stdev, windows(p, window)[:-1]))


def dual(p, margin, correct, window):
    return statistics.fmean(statistics.stdev(w) * (1 - statistics.fmean(w)) for w in windows(p, window))


OF_TRAINING = {
    "forgetting": forgetting,
    "aum": lambda p, margin, correct, window: sum(margin),
    "dyn_unc": dyn_unc,
    "dual": dual,
}


def beta_order(scores, means, fraction, c, best, draws):
    """The ids in the order of draws without replacement, in proportion to Beta(m; a, b) x score."""
    of_best = sorted(range(len(scores)), key=lambda i: (-np.float32(scores[i]), i))[:best]
    mu = statistics.fmean(float(np.float32(means[i])) for i in of_best)
    b = 15 * (1 - mu) * (1 - fraction**c)
    a = 16 - b
    scale = math.gamma(a + b) / (math.gamma(a) * math.gamma(b)) if b > 0 else 1.0
    weights = [scale * m ** (a - 1) * (1 - m) ** (b - 1) * s for m, s in zip(means, scores)]
    arrivals = [-math.log1p(-u) / w if w > 0 else math.inf for u, w in zip(draws, weights)]
    return sorted(range(len(scores)), key=lambda i: (np.float32(arrivals[i]), i))


def strata(aum, beta, n_strata, n_kept, draws):
    """The ids that CCS keeps."""
    order = sorted(range(len(aum)), key=lambda i: (aum[i], i))
    left = order[math.floor(beta * len(aum)) :]
    low, width = aum[left[0]], (aum[left[-1]] - aum[left[0]]) / n_strata or 1.0
    members = [[] for _ in range(n_strata)]
    for i in left:
        members[min(int((aum[i] - low) / width), n_strata - 1)].append(i)
    kept = set()
    for n_done, of_stratum in enumerate(sorted(members, key=len)):
        n = min(len(of_stratum), n_kept // (n_strata - n_done))
        n_kept -= n
        kept |= set(sorted(of_stratum, key=lambda i: (np.float32(draws[i]), i))[:n])
    return kept


# --- of the vectors of a class, or of all samples


def nearest(h, i, k):
    others = [j for j in range(len(h)) if j != i]
    return sorted(others, key=lambda j: (float(np.sum((h[i] - h[j]) ** 2)), j))[:k]


def cal(rows, k):
    p = np.maximum(rows.p.astype(float), 1e-8)
    kl = lambda a, b: float(np.sum(a * np.log(a / b)))  # noqa: E731
    near = [nearest(rows.h.astype(float), i, k) for i in range(len(p))]
    return [statistics.fmean([kl(p[j], p[i]) for j in of_i] or [0.0]) for i, of_i in enumerate(near)]


def moderate(rows, k):
    """n - place: nearest to the median of the distances from the mean first, in ranks of distance."""
    h, n = rows.h.astype(float), len(rows)
    by_distance = sorted(range(n), key=lambda i: norm(h[i] - h.mean(axis=0)))
    order = sorted(range(n), key=lambda i: (abs(by_distance.index(i) - (n - 1) / 2), i))
    return [float(n - order.index(i)) for i in range(n)]


def d2_pruning(rows, k):
    h, n = rows.h.astype(float), len(rows)
    hard = [norm(r) for r in rows.r]
    near = [nearest(h, i, k) for i in range(n)]
    distance = [{j: float(np.sum((h[i] - h[j]) ** 2)) for j in near[i]} for i in range(n)]
    scale = statistics.fmean([d for of_i in distance for d in of_i.values()] or [1.0]) or 1.0
    wanted = [hard[i] + sum(math.exp(-distance[i][j] / scale) * hard[j] for j in near[i]) for i in range(n)]
    score = [0.0] * n
    for place in range(n):
        pick = max((i for i in range(n) if not score[i]), key=lambda i: (wanted[i], -i))
        score[pick] = float(n - place)
        for j in near[pick]:
            wanted[j] -= math.exp(-distance[pick][j] / scale) * wanted[pick]
    return score


def influences(rows, damping):
    """(n, C (D + 1)): H^-1 G_i by the Kronecker product itself."""
    h = np.hstack([rows.h.astype(float), np.ones((len(rows), 1))])
    p, d = rows.p.astype(float), math.sqrt(damping)
    a = sum(np.outer(x, x) for x in h) / len(h) + d * np.eye(h.shape[1])
    b = sum(np.diag(x) - np.outer(x, x) for x in p) / len(p) + d * np.eye(p.shape[1])
    g = [np.outer(r, x).ravel() for r, x in zip(rows.r.astype(float), h)]
    return np.array([np.linalg.solve(np.kron(b, a), one) for one in g])


OF_VECTORS = {
    "cal": cal,
    "moderate": moderate,
    "d2_pruning": d2_pruning,
    "influence": lambda rows, k: np.linalg.norm(influences(rows, 0.1), axis=1).tolist(),
}


def clusters(unit, first, most=100):
    """The centers of k-means that begins with these rows, and the center of each row."""
    centers, nearest_of = [unit[i] for i in first], None
    for _ in range(most):
        now = [min(range(len(centers)), key=lambda c: (norm(x - centers[c]), c)) for x in unit]
        if now == nearest_of:
            break
        nearest_of = now
        for c in range(len(centers)):
            members = [x for x, of_x in zip(unit, now) if of_x == c]
            centers[c] = np.mean(members, axis=0) if members else centers[c]
    return centers, nearest_of
