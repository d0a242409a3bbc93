"""Multi-crop: a crop follows from its image's key and number; crops, flips and colours are torchvision's."""

import random

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torchvision.transforms import v2

from core.data.examples import ImageExamples
from core.data.idx import IdxImages
from core.data.order import keys, uniforms
from core.errors import InputError
from vision.multicrop import MultiCrop, SmallMultiCrop, _blurred, _of_crop, crop_boxes, crop_resized
from vision.randomness import own_randomness, seed_all


def _small(count: int, channels: int = 1) -> np.ndarray:
    shape = (count, 28, 28) if channels == 1 else (count, 28, 28, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _pictures(count: int) -> list[Image.Image]:
    values = np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)
    return [Image.fromarray(value) for value in values]


@pytest.mark.parametrize("small", [True, False])
def test_crops_follow_from_the_key_whatever_the_batch(small: bool):
    images = _small(5) if small else _pictures(5)
    crops = SmallMultiCrop([0.3], [0.3], locals=3, blur=0.5) if small else MultiCrop(32, 16, locals=3)
    key = keys(0, 1, np.arange(5))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    big, little = crops(images, key)
    size, local, channels = (28, 14, 1) if small else (32, 16, 3)
    assert big.shape == (10, channels, size, size)
    assert little.shape == (15, channels, local, local)
    for number in range(5):
        alone = crops(images[number : number + 1], key[number : number + 1])
        assert torch.equal(alone[0], big[number::5])  # crop by crop
        assert torch.equal(alone[1], little[number::5])
    others = crops(images, keys(0, 2, np.arange(5)))
    assert not torch.equal(others[0], big)
    assert not torch.equal(big[:5], big[5:])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_pictures_are_cropped_and_flipped_as_torchvision_does():
    crops = MultiCrop(32, 16, locals=2)
    picture, key = _pictures(1), keys(3, 0, np.arange(1))
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    scales = [(0.4, 1.0), (0.4, 1.0), (0.05, 0.4), (0.05, 0.4)]
    colours = v2.RandomApply | v2.RandomGrayscale | v2.RandomSolarize
    for view in crops.views:  # only what is geometry
        view.transforms = [transform for transform in view.transforms if not isinstance(transform, colours)]
    found = [crop for group in crops(picture, key) for crop in group]
    with own_randomness():
        for number, (crop, scale) in enumerate(zip(found, scales, strict=True)):
            seed_all(int(_of_crop(key, number)[0]))
            theirs = v2.RandomResizedCrop(crop.shape[-1], scale, interpolation=v2.InterpolationMode.BICUBIC)(picture[0])
            theirs = TF.hflip(theirs) if torch.rand(1) < 0.5 else theirs
            torch.testing.assert_close(crop, (TF.pil_to_tensor(theirs) / 255 - mean) / std)


def test_the_second_global_crop_is_rarely_blurred_and_sometimes_solarized():
    crops = MultiCrop(16, 8)
    blur, solarize = [], []
    for view in crops.views:
        blur.append(next(t for t in view.transforms if isinstance(t, v2.RandomApply) and "_Blur" in repr(t)).p)
        solarize += [t.p for t in view.transforms if isinstance(t, v2.RandomSolarize)]
    assert blur == [1.0, 0.1, 0.5]
    assert solarize == [0.0, 0.2, 0.0]


def test_small_crops_equal_torchvisions():
    x = torch.rand(3, 2, 28, 28)
    # enlarged, the samples within a box are those of torchvision, but for its edge, which a resized box repeats
    boxes = torch.tensor([[4.0, 6, 14, 14], [0, 0, 28, 28], [7, 2, 20, 8]])
    flips = torch.tensor([False, True, True])
    ours = crop_resized(x, boxes, flips, 28)
    for number in range(3):
        box = [int(value) for value in boxes[number]]
        theirs = TF.resized_crop(x[number], *box, [28, 28], v2.InterpolationMode.BILINEAR, antialias=False)
        theirs = TF.hflip(theirs) if flips[number] else theirs
        torch.testing.assert_close(ours[number, :, 3:-3, 3:-3], theirs[:, 3:-3, 3:-3], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[1], x[1].flip(-1), rtol=0, atol=1e-5)


def test_small_colours_and_blur_equal_torchvisions():
    image, key = _small(1), keys(0, 0, np.arange(1))
    crops = SmallMultiCrop([0.0], [1.0], locals=0, global_scale=(1.0, 1.0), flip=0.0)
    draws = uniforms(_of_crop(key, 0), 9)
    box = crop_boxes(draws[:, :4], 28, 28, (1.0, 1.0))
    plain = crop_resized(torch.from_numpy(image)[None].float() / 255, box, torch.tensor([False]), 28)
    bright, contrast = (1 + 0.4 * (2 * draws[0, 5:7] - 1)).tolist()
    theirs = TF.adjust_contrast(TF.adjust_brightness(plain[0], bright), contrast)
    torch.testing.assert_close(crops(image, key)[0][:1], theirs[None], rtol=0, atol=1e-5)
    for sigma in (0.5, 1.0):
        theirs = TF.gaussian_blur(plain, [3, 3], [sigma, sigma])
        torch.testing.assert_close(_blurred(plain, torch.tensor([sigma])), theirs, rtol=0, atol=1e-5)
    assert torch.equal(_blurred(plain, torch.zeros(1)), plain)


def test_boxes_have_the_areas_and_places_that_were_asked_for():
    boxes = crop_boxes(uniforms(keys(0, 0, np.arange(20_000)), 4), 28, 28, (0.1, 0.4)).double()
    area = boxes[:, 2] * boxes[:, 3] / 28**2
    assert 0.0999 < area.min() < 0.102
    assert 0.398 < area.max() < 0.4001
    assert abs(area.mean() - 0.25) < 0.002
    ratio = boxes[:, 3] / boxes[:, 2]
    assert 0.7499 < ratio.min() < 0.752
    assert abs(ratio.log().mean()) < 0.004
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 28.001).all()
    assert ((boxes[:, :2] + boxes[:, 2:] / 2).mean(0) - 14).abs().max() < 0.1
    wide = crop_boxes(uniforms(keys(0, 0, np.arange(999)), 4), 28, 28, (1.0, 1.0))
    assert wide[:, 2:].max() <= 28


def test_batches_hold_crops(tmp_path):
    images = IdxImages.__new__(IdxImages)
    images.images, images.labels, images.classes = _small(6), np.arange(6), []
    batch = ImageExamples(images, SmallMultiCrop([0.3], [0.3], locals=2)).__getitems__([(0, 3), (0, 1)])
    assert set(batch) == {"crops", "index", "label"}
    assert [tuple(group.shape) for group in batch["crops"]] == [(4, 1, 28, 28), (4, 1, 14, 14)]
    colours = SmallMultiCrop([0.5] * 3, [0.5] * 3, locals=0)(_small(2, 3), keys(0, 0, np.arange(2)))
    assert [tuple(group.shape) for group in colours] == [(4, 3, 28, 28)]
    one = MultiCrop(16, 8, locals=1)([Image.new("RGB", (1, 1), (9, 9, 9))], keys(0, 0, np.arange(1)))
    assert all(group.isfinite().all() for group in one)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="arrays of one size"):
        SmallMultiCrop([0.5], [0.5])(_pictures(1), keys(0, 0, np.arange(1)))
    with pytest.raises(InputError, match=r"3 channel\(s\)"):
        SmallMultiCrop([0.5], [0.5])(_small(1, 3), keys(0, 0, np.arange(1)))
    with pytest.raises(InputError, match="ranges within"):
        MultiCrop(local_scale=(0.0, 0.3))
