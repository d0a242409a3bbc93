"""``sensorium transcribe``: speech to text and subtitles."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import typer

from core.errors import InputError
from sensorium.commands import hearing
from sensorium.commands.hearing import numbers

if TYPE_CHECKING:
    from audio.settings import Settings
    from audio.transcribe import Transcriber

__all__ = ["transcribe"]


def transcribe(
    context: typer.Context,
    files: hearing.Files = None,
    model: hearing.Model = "tiny.en",
    language: hearing.Language = None,
    multilingual: hearing.Multilingual = False,
    task: hearing.Tasks = "transcribe",
    precision: hearing.Precisions = "auto",
    format: hearing.Formats = None,
    output: hearing.Place = None,
    overwrite: hearing.Overwrite = False,
    max_duration: hearing.MaxDuration = 12.0,
    word_timestamps: hearing.WordTimestamps = False,
    highlight_words: hearing.HighlightWords = False,
    max_line_width: hearing.MaxLineWidth = None,
    max_line_count: hearing.MaxLineCount = None,
    max_words_per_line: hearing.MaxWordsPerLine = None,
    vad: hearing.Vad = True,
    vad_threshold: hearing.VadThreshold = 0.5,
    batch_size: hearing.BatchSize = 8,
    clip_timestamps: hearing.ClipTimestamps = None,
    hallucination_silence_threshold: hearing.SkipSilence = None,
    beam_size: hearing.BeamSize = 1,
    patience: hearing.Patience = 1.0,
    length_penalty: hearing.LengthPenalty = None,
    temperature: hearing.Temperature = "0,0.2,0.4,0.6,0.8,1",
    best_of: hearing.BestOf = 5,
    compression_ratio_threshold: hearing.CompressionRatio = 2.4,
    logprob_threshold: hearing.Logprob = -1.0,
    no_speech_threshold: hearing.NoSpeech = 0.6,
    seed: hearing.Seed = 0,
    draft_model: hearing.DraftModel = None,
    initial_prompt: hearing.InitialPrompt = None,
    carry_initial_prompt: hearing.CarryInitialPrompt = False,
    condition_on_previous_text: hearing.ConditionOnPreviousText = False,
    hotwords: hearing.Hotwords = None,
    prefix: hearing.Prefix = None,
    suppress_tokens: hearing.SuppressTokens = "-1",
    repetition_penalty: hearing.RepetitionPenalty = 1.0,
    no_repeat_ngram_size: hearing.NoRepeatNgram = 0,
    max_new_tokens: hearing.MaxNewTokens = None,
    without_timestamps: hearing.WithoutTimestamps = False,
    stream: hearing.Stream = None,
    rate: hearing.Rate = 16_000,
    samples: hearing.Samples = "s16le",
    channels: hearing.Channels = 1,
) -> None:
    """Transcribe recordings of any length.

    Examples:

    sensorium transcribe talk.mp3

    sensorium transcribe film.mkv --model turbo --language de --output film.srt

    sensorium transcribe lectures/ --format all --output transcripts/

    arecord -f S16_LE -r 16000 -t raw | sensorium transcribe --stream -
    """
    from audio.cues import Layout
    from audio.decode import Search
    from audio.fallback import Fallback
    from audio.languages import language_code
    from audio.settings import Settings
    from audio.speech import VoiceActivity
    from audio.writing import Writing

    if stream is None:
        hearing.refuse(context, hearing.LIVE, "is for --stream")
    else:
        hearing.refuse(context, hearing.RECORDED, "is for recordings, not for --stream")
    if draft_model is not None and beam_size > 1:
        raise InputError(f"--draft-model can't help to keep {beam_size} beams: leave it out, or --beam-size")
    layout = Layout(highlight_words, max_line_width, max_line_count, max_words_per_line)
    settings = Settings(
        language=None if language is None else language_code(language),
        multilingual=multilingual,
        task=task,
        vad=VoiceActivity(threshold=vad_threshold) if vad else None,
        batch=batch_size,
        condition_on_previous_text=condition_on_previous_text,
        initial_prompt=initial_prompt,
        carry_initial_prompt=carry_initial_prompt,
        writing=Writing(
            timestamps=not without_timestamps,
            suppress_tokens=[int(number) for number in numbers(suppress_tokens, "--suppress-tokens")],
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            max_new_tokens=max_new_tokens,
            hotwords=hotwords,
            prefix=prefix,
        ),
        search=Search(beam_size, patience, length_penalty, best_of=best_of, seed=seed),
        fallback=Fallback(
            numbers(temperature, "--temperature"), compression_ratio_threshold, logprob_threshold, no_speech_threshold
        ),
        word_timestamps=word_timestamps or layout.needs_words or hallucination_silence_threshold is not None,
        hallucination_silence_threshold=hallucination_silence_threshold,
        clip_timestamps=numbers(clip_timestamps or "", "--clip-timestamps"),
    )
    load = _lazily(model, draft_model, precision, settings)
    if stream is not None:
        from audio.stream import Live
        from core.data.pcm import Pcm
        from sensorium.listening import listen_to

        if files:
            raise InputError("--stream takes no files: give one or the other")
        listen_to(stream, load, Pcm(rate, samples, channels), Live(pause=Live.pause if vad else None))
        return
    from sensorium.recordings import find_recordings
    from sensorium.transcribing import run
    from sensorium.transcripts import Output

    if not files:
        raise InputError("no recordings: give files, folders, or - for standard input")
    results = Output(output, format, layout)
    failures, count = run(results.jobs(find_recordings(files)), load, results, max_duration * 3600, overwrite)
    if failures:
        raise typer.Exit(2 if failures == count else 1)


def _lazily(
    model: str, draft: str | None, precision: hearing.Precision, settings: "Settings"
) -> "Callable[[], Transcriber]":
    """A function that loads the model when it's first called: a file that can't be read is told before any download."""

    @cache
    def load() -> "Transcriber":
        from audio.checkpoints import find_whisper
        from audio.fast import fast_whisper
        from audio.pair import fast_pair
        from audio.transcribe import Transcriber
        from sensorium.whispers import open_whisper

        whisper, _ = open_whisper(find_whisper(model))
        if draft is None:
            return Transcriber(fast_whisper(whisper, precision), settings=settings)
        small, _ = open_whisper(find_whisper(draft))
        whisper, drafts = fast_pair(whisper, small, precision)
        return Transcriber(whisper, settings=settings, draft=drafts)

    return load
