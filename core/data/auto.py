"""Which format a data set has, by what lies in its folder."""

from pathlib import Path

from core.data.coco import CocoCaptions, caption_files
from core.data.idx import Idx
from core.data.images import SUFFIXES, ImageFolder, class_folders, pictures
from core.data.parquet import Parquet
from core.data.photos import Photos
from core.data.sets import ImageFormat, ImageSet, Split
from core.data.shards import Shards
from core.data.splits import SPLIT_NAMES
from core.data.table import PATHS, Table, header
from core.errors import InputError

__all__ = ["Auto", "recognise"]


class Auto(ImageFormat):
    """The format that :func:`recognise` finds."""

    def open(self, root: Path, split: Split) -> ImageSet | None:
        return recognise(root).open(root, split)


def recognise(root: Path) -> ImageFormat:
    """The format of a data set: the first of these that fits.

    1. IDX files; 2. tar shards; 3. parquet files; 4. a table (.csv, .tsv) with a column of paths; 5. COCO's captions;
    6. two or more class folders with pictures in them, and none beside them (in ``train``, if there is one);
    7. pictures anywhere.

    ``root`` may also be one tar, parquet, table or COCO file, or a pattern of tars (``train-{000..012}.tar``).

    Raises:
        InputError: If none fits.
    """
    suffix = root.suffix.lower()
    if suffix == ".tar":
        return Shards()
    if not root.exists():
        raise InputError(f"{root}: no such folder; expected one with a data set of images")
    if root.is_file():
        formats: dict[str, ImageFormat] = {
            ".parquet": Parquet(),
            ".csv": Table(),
            ".tsv": Table(),
            ".json": CocoCaptions(),
        }
        if suffix not in formats:
            raise InputError(f"{root}: a file; expected a folder, or a .tar, .parquet, .csv, .tsv or .json file")
        return formats[suffix]
    if any(root.glob("*-idx[13]-ubyte*")):
        return Idx()
    if _any_below(root, "tar"):
        return Shards()
    if _any_below(root, "parquet"):
        return Parquet()
    tables = [path for ending in ("csv", "tsv") for path in sorted(root.glob(f"*.{ending}"))]
    if any(set(header(table)) & set(PATHS) for table in tables):
        return Table()
    if caption_files(root):
        return CocoCaptions()
    folder = next((root / name for name in SPLIT_NAMES["train"] if (root / name).is_dir()), root)
    beside = any(path.suffix.lower() in SUFFIXES and path.is_file() for path in folder.iterdir())
    if not beside and sum(bool(pictures(folder / name)) for name in class_folders(folder)) >= 2:
        return ImageFolder()
    if pictures(root):
        return Photos()
    raise InputError(
        f"{root}: no images found; looked for IDX files (MNIST), .tar shards, .parquet files, a .csv or .tsv table "
        "with a column path, class folders and pictures (.jpg, .png, ...)"
    )


def _any_below(root: Path, ending: str) -> bool:
    return next(root.rglob(f"[!.]*.{ending}"), None) is not None
