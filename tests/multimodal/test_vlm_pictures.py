"""Pictures and prompts of vision-language models, against the processors of transformers."""

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import InputError
from multimodal.vlm.crops import Crops
from multimodal.vlm.placing import check_counts, expanded, place
from multimodal.vlm.words import CropWords

SIZES = [(37, 90), (90, 37), (64, 64), (1, 50), (33, 31), (200, 199), (48, 16), (5, 5)]


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize("longest", [64, 80, 16])
@pytest.mark.parametrize("size", SIZES)
def test_crops_as_transformers(size: tuple[int, int], longest: int) -> None:
    module = pytest.importorskip("transformers.models.idefics3.image_processing_pil_idefics3")
    processor = module.Idefics3ImageProcessorPil(size={"longest_edge": longest}, max_image_size={"longest_edge": 16})
    theirs = processor(picture(*size), return_tensors="pt", return_row_col_info=True)
    crops = Crops(16, longest)
    ours = crops(picture(*size))
    assert (ours.rows, ours.columns) == (theirs["rows"][0][0], theirs["cols"][0][0]) == crops.grid(*size)
    torch.testing.assert_close(ours.pixels, theirs["pixel_values"][0].float(), rtol=0, atol=1e-6)
    assert theirs["pixel_attention_mask"].all()


def test_the_whole_alone_as_transformers() -> None:
    module = pytest.importorskip("transformers.models.smolvlm.image_processing_pil_smolvlm")
    processor = module.SmolVLMImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 16}, do_image_splitting=False
    )
    theirs = processor(picture(70, 30), return_tensors="pt")
    ours = Crops(16, 64, split=False)(picture(70, 30))
    torch.testing.assert_close(ours.pixels, theirs["pixel_values"][0].float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(64, 32), (16, 16)])
def test_words_as_transformers(size: tuple[int, int]) -> None:
    module = pytest.importorskip("transformers.models.smolvlm.processing_smolvlm")
    found = Crops(16, None)(picture(*size))
    theirs = module.get_image_prompt_string(
        found.rows, found.columns, 4, "<fake_token_around_image>", "<image>", "<global-img>"
    )
    assert CropWords(count=4).of(found) == theirs


def test_expansion() -> None:
    assert expanded("a <image> b <image>", "<image>", ["11", "2"]) == "a 11 b 2"
    assert expanded("no picture", "<image>", []) == "no picture"
    with pytest.raises(InputError, match=r"the text has 2 <image> but there is 1 image: number 2, after 'b', has none"):
        expanded("a <image> b <image>", "<image>", ["1"])
    with pytest.raises(InputError, match=r"there are 2 images but the text has 1 <image>: image 2 has no place in it"):
        expanded("a <image>", "<image>", ["1", "2"])


def test_counts() -> None:
    check_counts(torch.tensor([[1, 9, 9, 2]]), 9, [2])
    check_counts(torch.tensor([[1, 9, 9, 2, 9], [9, 9, 9, 1, 1]]), 9, [2, 1, 3])
    for ids, sizes, words in [
        ([[9, 9, 1, 9]], [2, 2], "image 2 of 2 has 2 features but 1 image tokens, from position 3"),
        ([[9, 9, 1, 9, 9]], [3, 2], "image 1 of 2 has 3 features but 2 image tokens, from position 0"),
        (
            [[9, 9, 1, 9, 9]],
            [2],
            "4 image tokens but there are 2 features, of 1 image: the tokens from position 3 on",
        ),
        ([[1, 1], [9, 9]], [], "has 2 image tokens but there are 0 features, of 0 images: .* position 0 of row 2 on"),
        (
            [[9, 9, 1, 1, 1]],
            [2, 2],
            "4 features, of 2 images, but 2 image tokens in .* for the 2 of image 2 .* none",
        ),
        ([[1, 1]], [3], "there are 3 features, of 1 image, but 0 image tokens in the text: for the 3 of image 1"),
    ]:
        with pytest.raises(InputError, match=words):
            check_counts(torch.tensor(ids), 9, sizes)


def test_placing() -> None:
    ids = torch.tensor([[9, 1, 9, 9], [1, 1, 9, 1]])
    x = torch.zeros(2, 4, 3)
    features = [torch.full((1, 3), 1.0), torch.stack([torch.full((3,), 2.0), torch.full((3,), 3.0)]), torch.ones(1, 3)]
    found = place(x, ids, 9, features)
    assert found[:, :, 0].tolist() == [[1, 0, 2, 3], [0, 0, 1, 0]]
