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


def glister(rows, picks, x, eta=0.1):
    h = np.hstack([rows.h.astype(float), np.ones((len(rows), 1))])
    g = gradients(rows)
    moved = (
        g[picks].sum(axis=0).reshape(rows.r.shape[1], -1)
        if picks
        else np.zeros((rows.r.shape[1], h.shape[1]))
    )
    z = np.log(rows.p.astype(float)) - eta * h @ moved.T
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    r = p - np.eye(p.shape[1])[rows.label]
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
