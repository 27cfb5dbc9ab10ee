"""Pictures to train on: written digits, and fine gratings whose waves lie beyond the limit of a stride."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIZE = 32


@dataclass(frozen=True)
class Task:
    """Pictures (N, 1, 32, 32) in float32 and their classes, for training and for testing."""

    name: str
    classes: int
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def digits(samples: int | None, seed: int) -> Task:
    """Return scikit-learn's 1797 digits of 8 x 8 pixels, each pixel enlarged to 4 x 4; three quarters train."""
    from sklearn.datasets import load_digits

    pictures, classes = load_digits(return_X_y=True)
    pictures = np.kron(pictures.reshape(-1, 1, 8, 8) / 16, np.ones((SIZE // 8, SIZE // 8)))
    order = np.random.default_rng(seed).permutation(len(pictures))[:samples]
    return _split("digits", 10, pictures[order], classes[order])


def gratings(samples: int, seed: int) -> Task:
    """Return waves of 4 directions and 2 lengths, 2.3 and 2.8 pixels, of random phase and contrast, under noise.

    Both lengths lie beyond the limit of every stride from 2 on: sampled, they look like others.
    """
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 8, samples)
    angle, frequency = np.pi / 4 * (classes % 4), np.where(classes < 4, 1 / 2.3, 1 / 2.8)
    y, x = np.mgrid[:SIZE, :SIZE]
    across = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    phase, contrast = rng.uniform(0, 2 * np.pi, samples), rng.uniform(0.3, 1, samples)
    waves = np.cos(2 * np.pi * frequency[:, None, None] * across + phase[:, None, None])
    pictures = contrast[:, None, None] * waves + 1.2 * rng.standard_normal((samples, SIZE, SIZE))
    return _split("gratings", 8, pictures[:, None], classes)


def _split(name: str, classes: int, pictures: np.ndarray, labels: np.ndarray) -> Task:
    pictures = ((pictures - pictures.mean()) / pictures.std()).astype(np.float32)
    part = 3 * len(pictures) // 4
    return Task(name, classes, (pictures[:part], labels[:part]), (pictures[part:], labels[part:]))
