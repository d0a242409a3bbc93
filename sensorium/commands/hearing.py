"""What may be asked of ``sensorium transcribe``: its options, in the groups of its help."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from core.errors import InputError

__all__ = ["LIVE", "RECORDED", "numbers", "refuse"]

Format = Literal["txt", "srt", "vtt", "tsv", "json", "lrc", "all"]
Task = Literal["transcribe", "translate"]
Precision = Literal["auto", "float32", "int8", "float16", "bfloat16"]

_OUTPUT = "Output"
_WORDS = "Words and subtitles"
_SPEECH = "Where speech is looked for"
_SEARCH = "How its text is found"
_TEXT = "What the text may be"
_LIVE = "While somebody speaks"

LIVE = ("rate", "samples", "channels")
"""Parameters that mean something with ``--stream`` only."""

RECORDED = (
    *("multilingual", "format", "output", "overwrite", "max_duration"),
    *("word_timestamps", "highlight_words", "max_line_width", "max_line_count", "max_words_per_line"),
    *("vad_threshold", "batch_size", "clip_timestamps", "hallucination_silence_threshold"),
    *("compression_ratio_threshold", "carry_initial_prompt", "condition_on_previous_text", "prefix"),
)
"""Those that mean nothing with it: what is said is printed as text, and looked at again and again as it grows."""

Files = Annotated[
    list[str] | None,
    typer.Argument(
        help="recordings, folders of them, patterns, or - for standard input: wav, flac, ogg, mp3; films and other "
        "sound with the extra 'media'"
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="name (tiny.en ... large-v3, turbo, distil-large-v3), checkpoint, folder, or owner/name"
    ),
]
Language = Annotated[
    str | None, typer.Option("--language", "-l", help="of the speech, such as en or german; detected if not given")
]
Multilingual = Annotated[bool, typer.Option("--multilingual", help="detect the language of each window")]
Tasks = Annotated[Task, typer.Option("--task", help="write what is said, or its English translation")]
Precisions = Annotated[
    Precision, typer.Option("--precision", help="of the arithmetic; auto is what is fastest on this machine")
]

Formats = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="of the result; as --output ends, else txt", rich_help_panel=_OUTPUT),
]
Place = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="file or folder; by default text is printed", rich_help_panel=_OUTPUT),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="repeat recordings whose results are in the folder", rich_help_panel=_OUTPUT),
]
MaxDuration = Annotated[
    float,
    typer.Option("--max-duration", help="hours; longer recordings are refused", min=0, rich_help_panel=_OUTPUT),
]

WordTimestamps = Annotated[
    bool, typer.Option("--word-timestamps", help="find out when each word is spoken", rich_help_panel=_WORDS)
]
HighlightWords = Annotated[
    bool, typer.Option("--highlight-words", help="underline words as they are spoken", rich_help_panel=_WORDS)
]
MaxLineWidth = Annotated[
    int | None, typer.Option("--max-line-width", help="characters in a line", rich_help_panel=_WORDS)
]
MaxLineCount = Annotated[
    int | None,
    typer.Option("--max-line-count", help="lines shown at once, with --max-line-width", rich_help_panel=_WORDS),
]
MaxWordsPerLine = Annotated[
    int | None, typer.Option("--max-words-per-line", help="words shown at once", rich_help_panel=_WORDS)
]

Vad = Annotated[
    bool,
    typer.Option("--vad/--no-vad", help="hear where somebody speaks only, or everything", rich_help_panel=_SPEECH),
]
VadThreshold = Annotated[
    float, typer.Option("--vad-threshold", help="probability from which on it is speech", rich_help_panel=_SPEECH)
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", help="windows heard at once: of no effect on the text", rich_help_panel=_SPEECH)
]
ClipTimestamps = Annotated[
    str | None,
    typer.Option(
        "--clip-timestamps", help="seconds: start,end,start,end,... of what is heard", rich_help_panel=_SPEECH
    ),
]
SkipSilence = Annotated[
    float | None,
    typer.Option(
        "--hallucination-silence-threshold",
        help="seconds of silence beside doubtful text that are skipped with it; finds word times",
        rich_help_panel=_SPEECH,
    ),
]

BeamSize = Annotated[int, typer.Option("--beam-size", help="1 is greedy", rich_help_panel=_SEARCH)]
Patience = Annotated[float, typer.Option("--patience", help="of the beams", rich_help_panel=_SEARCH)]
LengthPenalty = Annotated[
    float | None, typer.Option("--length-penalty", help="of the beams; by default their mean", rich_help_panel=_SEARCH)
]
Temperature = Annotated[
    str,
    typer.Option(
        "--temperature", help="one, or several that are tried in turn until the text is good", rich_help_panel=_SEARCH
    ),
]
BestOf = Annotated[int, typer.Option("--best-of", help="texts drawn above temperature 0", rich_help_panel=_SEARCH)]
CompressionRatio = Annotated[
    float,
    typer.Option("--compression-ratio-threshold", help="a text above it repeats itself", rich_help_panel=_SEARCH),
]
Logprob = Annotated[
    float, typer.Option("--logprob-threshold", help="a text below it is a guess", rich_help_panel=_SEARCH)
]
NoSpeech = Annotated[
    float,
    typer.Option("--no-speech-threshold", help="a guess is silence above it", rich_help_panel=_SEARCH),
]
DraftModel = Annotated[
    str | None,
    typer.Option("--draft-model", help="small model that tries words in advance", rich_help_panel=_SEARCH),
]
Seed = Annotated[int, typer.Option("--seed", help="of what is drawn", rich_help_panel=_SEARCH)]

InitialPrompt = Annotated[
    str | None,
    typer.Option("--initial-prompt", help="text to go on from: names, spelling, style", rich_help_panel=_TEXT),
]
CarryInitialPrompt = Annotated[
    bool, typer.Option("--carry-initial-prompt", help="before every window", rich_help_panel=_TEXT)
]
ConditionOnPreviousText = Annotated[
    bool,
    typer.Option(
        "--condition-on-previous-text/--no-condition-on-previous-text",
        help="show the model what it wrote: one window after the other",
        rich_help_panel=_TEXT,
    ),
]
Hotwords = Annotated[
    str | None, typer.Option("--hotwords", help="names and terms that may come", rich_help_panel=_TEXT)
]
Prefix = Annotated[str | None, typer.Option("--prefix", help="how the first text begins", rich_help_panel=_TEXT)]
SuppressTokens = Annotated[
    str,
    typer.Option("--suppress-tokens", help="numbers; -1 stands for what is not spoken", rich_help_panel=_TEXT),
]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition-penalty", help="above 1: words come less often again", rich_help_panel=_TEXT)
]
NoRepeatNgram = Annotated[
    int,
    typer.Option(
        "--no-repeat-ngram-size",
        help="no run of so many tokens comes twice in a window; 0: any may",
        rich_help_panel=_TEXT,
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", help="of a window; by default half of the model's positions", rich_help_panel=_TEXT
    ),
]
WithoutTimestamps = Annotated[
    bool, typer.Option("--without-timestamps", help="a window is one segment", rich_help_panel=_TEXT)
]

Stream = Annotated[
    str | None,
    typer.Option(
        "--stream", help="- (raw samples or wav on standard input) or mic, text as it is said", rich_help_panel=_LIVE
    ),
]
Rate = Annotated[int, typer.Option("--rate", help="of raw samples, Hz", rich_help_panel=_LIVE)]
Samples = Annotated[
    Literal["u8", "s16le", "s24le", "s32le", "f32le"],
    typer.Option("--samples", help="type of raw samples", rich_help_panel=_LIVE),
]
Channels = Annotated[int, typer.Option("--channels", help="of raw samples", rich_help_panel=_LIVE)]


def numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers in a text with commas.

    Raises InputError, naming the option, where there is something else.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"{option} {text}: expected numbers with commas between them") from error


def refuse(context: typer.Context, parameters: Iterable[str], why: str) -> None:
    """Raise InputError where one of some parameters stands on the command line: its option, and then `why`."""
    for name in parameters:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise InputError(f"--{name.replace('_', '-')} {why}")
