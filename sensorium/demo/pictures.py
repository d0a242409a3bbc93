"""The report's pictures, each a function from plain arrays to PNG bytes."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

__all__ = [
    "asked_images",
    "attention_maps",
    "confusion",
    "found_images",
    "learning_curves",
    "sample_predictions",
    "spectrogram",
]

INK, ACCENT, WARM, GRID = "#1f2933", "#2563eb", "#dc2626", "#d9dee5"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.dpi": 130,
    "savefig.bbox": "tight",
}
mpl.rcParams.update(STYLE)


def png(figure: Figure) -> bytes:
    """Render and close the figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()


def spectrogram(
    wave: np.ndarray, rate: int, mel: np.ndarray, segments: Sequence[tuple[float, float, str]], title: str
) -> bytes:
    """The wave, its log-mel spectrogram (mels, frames) at 100 frames a second, and what was heard, on one time axis.

    `segments` are (start, end, text), in seconds.
    """
    seconds = len(wave) / rate
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(9.6, 4.4), sharex=True, height_ratios=[1, 3, 0.9], layout="constrained"
    )
    step = max(1, len(wave) // 6000)
    top.plot(np.arange(0, len(wave), step) / rate, wave[::step], color=ACCENT, linewidth=0.5)
    top.set(yticks=[], title=title, ylabel="wave")
    top.spines["left"].set_visible(False)
    shown = mel[:, : int(seconds * 100)]
    middle.imshow(shown, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, len(mel)))
    middle.set(ylabel="mel band")
    for start, end, text in segments:
        stop = min(end, seconds)
        bottom.axvspan(start, stop, color=ACCENT, alpha=0.12, linewidth=0)
        bottom.text((start + stop) / 2, 0.5, wrapped(text, stop - start, seconds), ha="center", va="center")
    bottom.set(yticks=[], xlim=(0, seconds), ylim=(0, 1), xlabel="seconds", ylabel="heard")
    bottom.spines["left"].set_visible(False)
    return png(figure)


def wrapped(text: str, length: float, seconds: float) -> str:
    """`text` in lines that fit a segment of `length` on an axis of `seconds`."""
    return "\n".join(textwrap.wrap(text.strip(), max(8, int(105 * length / seconds))))


def learning_curves(
    steps: Sequence[float],
    losses: Sequence[float],
    epochs: Sequence[float],
    accuracies: Sequence[float],
    chance: float,
) -> bytes:
    """Training loss by optimizer step beside test accuracy (0..1) by epoch, with the level of guessing."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.0), layout="constrained")
    left.plot(steps, losses, color=GRID, linewidth=1)
    left.plot(steps, smooth(losses), color=ACCENT, linewidth=2)
    left.set(title="training loss", xlabel="optimizer step", ylim=(0, None))
    right.plot(epochs, np.multiply(accuracies, 100), color=ACCENT, marker="o", linewidth=2)
    right.axhline(100 * chance, color=WARM, linestyle=":", linewidth=1.2)
    right.text(epochs[-1], 100 * chance + 2, "guessing", color=WARM, ha="right", fontsize=9)
    last = (epochs[-1], 100 * accuracies[-1])
    right.annotate(f"{last[1]:.1f} %", last, xytext=(0, 7), textcoords="offset points", ha="center", weight="bold")
    right.set(title="accuracy on held-out images", xlabel="epoch", ylabel="%", ylim=(0, 105))
    right.xaxis.get_major_locator().set_params(integer=True)
    for axis in (left, right):
        axis.grid(color=GRID, linewidth=0.6)
    return png(figure)


def smooth(values: Sequence[float], window: int = 9) -> np.ndarray:
    """Running mean over `window` values, shorter at the ends."""
    array = np.asarray(values, dtype=float)
    weights = np.ones(min(window, len(array)))
    return np.convolve(array, weights, "same") / np.convolve(np.ones(len(array)), weights, "same")


def sample_predictions(
    images: np.ndarray, truth: np.ndarray, guess: np.ndarray, sure: np.ndarray, names: Sequence[str]
) -> bytes:
    """A grid of images (N, H, W), each with the predicted label and its probability; mistakes are red."""
    columns = 8
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9.6, 1.62 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, right, said, probability in zip(axes.flat, images, truth, guess, sure, strict=False):
        axis.imshow(image, cmap="gray_r")
        good = right == said
        axis.set_title(f"{names[said]} {100 * probability:.0f}%", fontsize=8, color=INK if good else WARM, pad=3)
        if not good:
            axis.text(0.5, -0.1, f"is: {names[right]}", transform=axis.transAxes, ha="center", fontsize=7.5, color=WARM)
    return png(figure)


def found_images(found: Mapping[str, np.ndarray]) -> bytes:
    """One row for each query: the images (N, H, W) that it found, the best first, as bright as they are."""
    columns = max(map(len, found.values()))
    figure, axes = plt.subplots(
        len(found), columns, figsize=(9.6, 1.5 * len(found)), layout="constrained", squeeze=False
    )
    for row, (query, images) in zip(axes, found.items(), strict=True):
        row[0].set_title(f"\u201c{query}\u201d", fontsize=9, loc="left")
        for axis in row:
            axis.axis("off")
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    return png(figure)


def asked_images(chats: Sequence[tuple[np.ndarray, str, str]]) -> bytes:
    """One row for each chat: its images (N, H, W), what was asked about them, and the answer."""
    columns = max(len(images) for images, _, _ in chats)
    figure, axes = plt.subplots(
        len(chats), columns + 1, figsize=(8, 1.3 * len(chats)), layout="constrained", squeeze=False
    )
    for row, (images, question, answer) in zip(axes, chats, strict=True):
        for axis in row:
            axis.axis("off")
        for axis, image in zip(row, images, strict=False):
            axis.imshow(image, cmap="gray_r")
        row[-1].text(0, 0.62, question, fontsize=10, color=INK)
        row[-1].text(0, 0.28, answer, fontsize=10, color=INK, weight="bold")
    return png(figure)


def confusion(counts: np.ndarray, names: Sequence[str]) -> bytes:
    """The confusion matrix (truth, prediction) in percent of each true class."""
    share = 100 * counts / counts.sum(axis=1, keepdims=True).clip(1)
    figure, axis = plt.subplots(figsize=(6.4, 5.4), layout="constrained")
    axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*share.shape):
        if share[row, column] >= 0.5:
            colour = "white" if share[row, column] > 55 else INK
            axis.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="true", title="% of each true class")
    axis.spines[:].set_visible(False)
    return png(figure)


def attention_maps(images: np.ndarray, maps: np.ndarray, titles: Sequence[str], names: Sequence[str]) -> bytes:
    """One row for each image (N, H, W): the image, then its attention maps (N, K, h, w) laid over it."""
    count, kinds = maps.shape[:2]
    figure, axes = plt.subplots(
        count, kinds + 1, figsize=(1.55 * (kinds + 1), 1.55 * count), layout="constrained", squeeze=False
    )
    for row, (image, of_image) in enumerate(zip(images, maps, strict=True)):
        side = (0, image.shape[1], image.shape[0], 0)
        axes[row, 0].imshow(image, cmap="gray_r", extent=side)
        axes[row, 0].set_ylabel(names[row], fontsize=9)
        for axis, weights in zip(axes[row, 1:], of_image, strict=True):
            axis.imshow(image, cmap="gray_r", extent=side)
            axis.imshow(weights, cmap="inferno", alpha=0.68, extent=side, interpolation="bicubic")
    for axis, title in zip(axes[0], ["image", *titles], strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return png(figure)
