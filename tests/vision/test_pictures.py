"""Pictures: colours and sizes by hand; those of a training, of a ViT and of a masked autoencoder."""

import numpy as np
import torch

from vision.pictures import as_colours, heat, overlay, sheet, shown


def test_a_prepared_image_is_stretched_to_the_range():
    image = torch.tensor([[[-2.0, 0.0], [1.0, 2.0]]])
    assert shown(image)[..., 0].tolist() == [[0, 128], [191, 255]]
    assert shown(image).shape == (2, 2, 3)
    assert as_colours(torch.full((3, 1, 1), 0.5)).tolist() == [[[128, 128, 128]]]


def test_heat_gets_brighter():
    colours = heat(torch.linspace(3, 7, 9)[None])
    assert colours.shape == (1, 9, 3)
    assert colours[0, [0, -1]].tolist() == [[0, 0, 4], [252, 255, 164]]
    assert (np.diff(colours[0].astype(int) @ [299, 587, 114]) > 0).all()
    assert heat(torch.ones(2, 2)).max() == 4  # nothing stands out


def test_overlay_and_sheet():
    white, black = np.full((8, 12, 3), 255, np.uint8), np.zeros((2, 3, 3), np.uint8)
    assert (overlay(white, black, 0.6) == 102).all()
    page = np.asarray(sheet([[white, black], [black]], side=24))
    assert page.shape == (2 * 28 + 4, 2 * 28 + 4, 3)
    assert (page[4:20, 32:56] == 0).all()  # 2 x 3 enlarged to 16 x 24
    assert (page[32:48, 32:56] == 255).all()  # the second row is shorter
    assert sheet([[white]], [["title"]], side=24).size == (32, 48)
