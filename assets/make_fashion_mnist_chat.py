"""Makes ``fashion_mnist_chat/``: the tokenizer and chat template of the small model that is asked about clothes.

    python assets/make_fashion_mnist_chat.py

Trains byte-pair merges on questions that are made from templates (``multimodal.tasks.questions``), so that every word
of theirs is one token; bytes are tokens too, so that any text can be read.
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from core.data.idx import Idx  # noqa: E402
from multimodal.tasks.questions import Questions  # noqa: E402

NAMES = ["t-shirt", "pair of trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
GROUPS = {"footwear": [5, 7, 9], "clothing": [0, 1, 2, 3, 4, 6]}
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<image>"]
# each picture has its number in front, as Qwen2-VL's "add_vision_id" writes it: words such as "second" need a place
TEMPLATE = (
    "{% set seen = namespace(pictures=0) %}"
    "{% for message in messages %}{{ '<|' + message.role + '|>' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}{% set seen.pictures = seen.pictures + 1 %}"
    "{{ seen.pictures }}{{ '<image>' }}"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORDS = 512


def main() -> None:
    """Write the folder."""
    made = Questions(Idx(NAMES), NAMES, GROUPS).open(ROOT / "assets" / "fashion_mnist_subset", "train")
    assert made is not None
    texts = [str(digit) for digit in range(10) for _ in range(100)]  # of the pictures
    for told in made.read(range(4000)):
        for message in told.fields["messages"]:
            content = message["content"]
            texts += [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    # the space in front of every first word, which the tokenizer adds, is no part of an answer
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder = ROOT / "assets" / "fashion_mnist_chat"
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "chat_template": TEMPLATE,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said, indent=1) + "\n")
    print(f"{folder}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
