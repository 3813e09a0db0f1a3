"""Oracle of greedy subsets: what a pick gains, straight from the papers, by explicit gradients and loops."""

import numpy as np


def gradients(rows):
    """G_i = r_i [h_i; 1]^T as flat rows, by outer products."""
    return np.array(
        [
            np.outer(r, np.append(h, 1)).ravel()
            for h, r in zip(rows.h.astype(float), rows.r.astype(float), strict=True)
        ]
    )


def cosine_similarity(rows):
    g, n = gradients(rows), len(rows)
    s = np.full((n, n), 0.5)
    for i in range(n):
        for j in range(n):
            size = np.linalg.norm(g[i]) * np.linalg.norm(g[j])
            s[i, j] = 1 if i == j else 0.5 + (0.5 * g[i] @ g[j] / size if size > 0 else 0)
    return s


def k_center(rows, picks, x):
    h = rows.h.astype(float)
    return min(np.sum((h[x] - h[j]) ** 2) for j in picks) if picks else None


def contextual_diversity(rows, picks, x):
    p = np.maximum(rows.p.astype(float), 1e-8)

    def divergence(a, b):
        return (np.sum(a * np.log(a / b)) + np.sum(b * np.log(b / a))) / 2

    return np.float32(min(divergence(p[x], p[j]) for j in picks)) if picks else None


def herding(rows, picks, x):
    h = rows.h.astype(float)
    target = (len(picks) + 1) * h.mean(axis=0) - h[picks].sum(axis=0)
    return -np.sum((target - h[x]) ** 2)


def coverage(s, picks):
    return np.max(s[:, picks], axis=1).sum() if picks else 0.0


def facility_location(rows, picks, x):
    s = cosine_similarity(rows)
    return coverage(s, [*picks, x]) - coverage(s, picks)


def graph_cut(rows, picks, x):
    s = cosine_similarity(rows)
    return s[:, x].sum() - 2 * s[picks, x].sum()


def craig(rows, picks, x):
    g = gradients(rows)
    d = np.linalg.norm(g[:, None] - g, axis=2)
    return coverage(d.max() - d, [*picks, x]) - coverage(d.max() - d, picks)


def glister(rows, picks, x, eta=0.1, judged=None):
    g, judged = gradients(rows), rows if judged is None else judged
    h = np.hstack([judged.h.astype(float), np.ones((len(judged), 1))])
    moved = (
        g[picks].sum(axis=0).reshape(rows.r.shape[1], -1)
        if picks
        else np.zeros((rows.r.shape[1], h.shape[1]))
    )
    z = np.log(judged.p.astype(float)) - eta * h @ moved.T
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    r = p - np.eye(p.shape[1])[judged.label]
    mean = np.mean([np.outer(a, b).ravel() for a, b in zip(r, h, strict=True)], axis=0)
    return g[x] @ mean


GAINS = {
    "k_center": k_center,
    "contextual_diversity": contextual_diversity,
    "herding": herding,
    "facility_location": facility_location,
    "graph_cut": graph_cut,
    "craig": craig,
    "glister": glister,
}


def solve(g, target, picks, damping):
    """Weights of the picks by the normal equations; the first pick alone has no damping."""
    a = g[picks]
    if len(picks) == 1:
        return np.array([a[0] @ target / (a[0] @ a[0])])
    return np.linalg.solve(a @ a.T + damping * np.eye(len(picks)), a @ target)


def matching_pursuit(g, target, turns, damping):
    """Picks and weights of OMP with weights >= 0, by explicit vectors: stops where nothing points along."""
    picks, weights, size = [], np.zeros(0), np.linalg.norm(target)
    for _ in range(turns):
        residual = target - (weights @ g[picks] if picks else 0)
        along = {x: g[x] @ residual for x in range(len(g)) if x not in picks}
        if not along or np.linalg.norm(residual) < 1e-9 * size:
            break
        pick = max(along, key=lambda x: (along[x], -x))
        if along[pick] <= 1e-9 * np.linalg.norm(g[pick]) * size:
            break
        picks.append(pick)
        weights = solve(g, target, picks, damping)
        while weights.min(initial=0) < 0:
            picks.pop(int(np.argmin(weights)))
            weights = np.linalg.solve(g[picks] @ g[picks].T + damping * np.eye(len(picks)), g[picks] @ target)
    return picks, weights


def batch_means(rows, size):
    """Mean gradient of each batch of ``size`` consecutive ids, by id of its first sample."""
    g = gradients(rows)
    first = rows.id // size * size
    return {int(b): np.mean([g[i] for i in np.flatnonzero(first == b)], axis=0) for b in np.unique(first)}


def temporal_dual_depth(p, window, beta):
    """TDDS of one sample from its class probabilities, (T, C)."""
    kd = [
        sum(abs(b * (np.log(b + 1e-8) - np.log(a + 1e-8))) for a, b in zip(p[t], p[t + 1], strict=True))
        for t in range(len(p) - 1)
    ]
    score = 0.0
    for k in range(len(p) - window + 1):
        of_window = np.array(kd[k : k + window - 1])
        v = np.sqrt(np.sum((of_window - of_window.mean()) ** 2))
        score += beta * (1 - beta) ** (len(p) - window - k) * v
    return score
