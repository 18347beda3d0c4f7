"""Decoding bytes to RGB pixels and to the input of a network: the only decoder of the project.

Training, batch, service and browser page agree with this module. Formats are detected by content, never by name. Any bytes
give pixels or :class:`~fruits.errors.ImageDecodeError`, nothing else. Independent of files, labels and networks.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from fruits.config import Fit
from fruits.errors import ConfigError, ImageDecodeError
from fruits.photos.decoding.colour import in_srgb
from fruits.photos.decoding.formats import EXTRA, format_of, heif_size, is_image, taken, wanted
from fruits.photos.decoding.jpeg import decode_plain

Kernel = Literal["bilinear", "bicubic", "lanczos"]

#: Version of the decoder, part of the embeddings' identity. Raise it with every change that gives other pixels for the same file.
#: 1: first version. 2: embedded colour profiles are applied.
DECODER: Final = 2
#: Photos with more pixels are rejected before decoding; 100 million covers the photos of phones.
MAX_PIXELS: Final = 100_000_000
#: A JPEG is decoded at the smallest scale with at least this many times the needed pixels per side. With 2, the result
#: differs from full decoding by less than JPEG noise (the rule of Pillow's ``thumbnail``).
_DRAFT_MARGIN: Final = 2
_ORIENTATION_TAG: Final = 0x0112
KERNELS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_READERS: Final[dict[str, Callable[[BytesIO], ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
# EXIF orientation -> inverse transform (EXIF 2.32, section 4.6.4).
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Exceptions of Pillow's readers on damaged files, found by fuzzing and by reading their code. Any other exception is a bug.
_DAMAGE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    RuntimeError,  # raised by pillow-heif
    ArithmeticError,
    AttributeError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a photo of any shape is fitted into the square input of a network.

    Parameters
    ----------
    size : int
        Side of the square in pixels.
    fit : {"pad", "crop", "squash"}
        Pad the whole photo with white, crop the largest centred square, or stretch.
    kernel : {"bilinear", "bicubic", "lanczos"}
        Resampling kernel, always antialiased.

    Raises
    ------
    ConfigError
        If a value is not allowed; ``size`` must be 8 to 2048.
    """

    size: int
    fit: Fit = "pad"
    kernel: Kernel = "bicubic"

    @property
    def steps(self) -> tuple[str, ...]:
        """What is done to a decoded photo, in order."""
        return (*_COLOUR_STEPS, f"resize:{self.fit}:{self.kernel}")

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 2048:
            raise ConfigError(f"size {self.size}: expected 8 to 2048 pixels")
        if self.fit not in get_args(Fit):
            raise ConfigError(f"fit '{self.fit}': expected one of {', '.join(get_args(Fit))}")
        if self.kernel not in get_args(Kernel):
            raise ConfigError(f"kernel '{self.kernel}': expected one of {', '.join(get_args(Kernel))}")


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo: its upright size before scaling, and its pixels.

    Attributes
    ----------
    width, height : int
        Original size of the upright photo, in pixels.
    pixels : uint8 array, shape (height', width', 3)
        RGB; the shape is that of the scaled photo.
    """

    width: int
    height: int
    pixels: NDArray[np.uint8]


def read_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from the header, with the orientation applied.

    Raises
    ------
    ImageDecodeError
        If the format is not accepted, the header is damaged, or it declares more than ``MAX_PIXELS``.
    """
    image = _open(data)
    return _swap(image.size, _orientation(image))


def to_network_input(data: bytes, preprocessing: Preprocessing) -> Photo:
    """Decode a photo and fit it into the network's square.

    Parameters
    ----------
    data : bytes
        The whole file.
    preprocessing : Preprocessing
        Size, fit and kernel, as on the backbone's card.

    Returns
    -------
    Photo
        With pixels of shape (size, size, 3).

    Raises
    ------
    ImageDecodeError
        If the bytes are not a complete photo of an accepted format with at most ``MAX_PIXELS``.
    """
    return _fitted(*_decode(data, _scaling(preprocessing)), preprocessing)


def from_image(image: Image.Image, preprocessing: Preprocessing) -> Photo:
    """Fit an image in memory into the network's square; the pixels are those of the same image saved as PNG.

    Orientation, colour profile and transparency are taken from the image, as from a file. The image is not changed. If Pillow has
    not loaded it yet, it is decoded in this process: for untrusted files use a :class:`~.decoder.Decoder`.

    Parameters
    ----------
    image : Image
        Of any mode that Pillow can convert to RGB.
    preprocessing : Preprocessing

    Raises
    ------
    ImageDecodeError
        If it has no pixels or more than ``MAX_PIXELS``, or Pillow cannot load or convert it.
    """
    width, height = image.size
    if not width or not height:
        raise ImageDecodeError("empty", f"an image of {width} x {height} pixels; expected some")
    if width * height > MAX_PIXELS:
        raise _too_large(width, height)
    try:
        orientation = _orientation(image)
        rgb = _coloured(image.copy(), orientation)  # a copy: the conversion to sRGB is in place
    except _DAMAGE as exc:
        raise ImageDecodeError(
            "damaged", f"Pillow cannot load or convert an image of mode {image.mode} ({_brief(exc)})"
        ) from exc
    return _fitted(rgb, _swap(image.size, orientation), preprocessing)


def to_thumbnail(data: bytes, side: int, quality: int = 80) -> bytes:
    """Return a JPEG no larger than ``side`` pixels either way, without metadata.

    Raises
    ------
    ImageDecodeError
        As :func:`to_network_input`.
    """

    def scale(width: int, height: int) -> tuple[int, int]:
        shrink = min(1.0, side / max(width, height))
        return max(1, round(width * shrink)), max(1, round(height * shrink))

    image, _ = _decode(data, scale)
    target = scale(*image.size)
    # Copy if the size is unchanged: when Pillow saves an image that came from a file, it looks for that file.
    image = image.copy() if image.size == target else image.resize(target, Image.Resampling.BICUBIC)
    image.info.clear()  # Pillow copies a comment from here, whatever the options
    out = BytesIO()
    image.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


def made_photos() -> Iterator[bytes]:
    """Yield small synthetic photos that cover every code path of decoding."""
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format_, modes in (
        ("JPEG", ("RGB", "L", "CMYK")),
        ("PNG", ("RGBA", "P", "LA", "I;16")),
        ("WEBP", ("RGB", "RGBA")),
    ):
        for mode in modes:
            out = BytesIO()
            Image.new(mode, (16, 12)).save(out, format_, exif=exif, icc_profile=profile, dpi=(72, 72))
            yield out.getvalue()
    out = BytesIO()
    Image.new("RGB", (16, 12)).save(out, "JPEG")
    yield out.getvalue()


def _decode(data: bytes, scale: Callable[[int, int], tuple[int, int]]) -> tuple[Image.Image, tuple[int, int]]:
    """Return the upright RGB image, decoded at reduced scale where possible, and the original upright size."""
    if format_of(data) == "JPEG" and (plain := decode_plain(data, scale, _DRAFT_MARGIN)) is not None:
        return plain
    image = _open(data)
    try:
        orientation = _orientation(image)
        upright_size = _swap(image.size, orientation)
        if image.format == "JPEG":
            # draft() only chooses 1/2, 1/4 or 1/8, and only if the result is at least as large as requested.
            width, height = scale(*image.size)
            image.draft(None, (_DRAFT_MARGIN * width, _DRAFT_MARGIN * height))
        image.load()
        if image.format == "HEIF":
            upright_size = image.size
        rgb = _coloured(image, orientation)
    except _DAMAGE as exc:
        raise ImageDecodeError("damaged", f"{image.format} data is damaged or cut short ({_brief(exc)})") from exc
    return rgb, upright_size


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header only, with the reader of the detected format."""
    if not data:
        raise ImageDecodeError("empty", "the file is empty (0 bytes)")
    name = format_of(data)
    if name is None or name not in taken():
        raise _foreign(name, data)
    # Call the readers directly, not Image.open: it would try other formats and warn depending on global state.
    try:
        image = _read_header(name, data)
    except Image.DecompressionBombError as exc:
        # Pillow's WebP reader checks a limit of its own first, which is higher than MAX_PIXELS.
        raise ImageDecodeError("too large", f"{_brief(exc)}; expected at most {MAX_PIXELS:,} pixels") from exc
    except ImageDecodeError:
        raise
    except _DAMAGE as exc:
        raise ImageDecodeError("damaged", f"{name} header is damaged or cut short ({_brief(exc)})") from exc
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(width, height)
    return image


def _too_large(width: int, height: int) -> ImageDecodeError:
    said = f"{width} x {height} = {width * height:,} pixels; expected at most {MAX_PIXELS:,}: scale it down"
    return ImageDecodeError("too large", said)


def _read_header(name: str, data: bytes) -> ImageFile.ImageFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as "Invalid APNG, will use default PNG image", which is intended
        try:
            return _READERS.get(name, _heif)(BytesIO(data))
        except _DAMAGE:
            # Pillow refuses a PNG whose profile it cannot decompress; read it without the profile.
            if name != "PNG" or (bare := _without_profile(data)) is None:
                raise
            return _READERS[name](BytesIO(bare))


def _without_profile(png: bytes) -> bytes | None:
    """Return a PNG without its colour profile; None if it has none."""
    at = 8
    while at + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        if kind == b"iCCP":
            return png[:at] + png[at + 12 + length :]
        if kind in (b"IDAT", b"IEND"):
            break
        at += 12 + length
    return None


def _foreign(name: str | None, data: bytes) -> ImageDecodeError:
    """Return the error for a format that is not accepted; it names the format and tells the user what to do."""
    if name is None:
        return ImageDecodeError("not an image", f"begins with {data[:8].hex(' ')}; expected {wanted()}")
    if name in EXTRA:
        return ImageDecodeError(
            "unsupported format",
            f"this is {name}; to read it, install fruits[heic], or convert it to JPEG, PNG or WebP",
        )
    if not is_image(name):
        return ImageDecodeError("not an image", f"this is {name}; expected {wanted()}")
    return ImageDecodeError("unsupported format", f"this is {name}; expected {wanted()}: convert it")


def _heif(data: BytesIO) -> ImageFile.ImageFile:
    """Read the header of a HEIF file with pillow-heif, which applies the file's orientation itself."""
    import pillow_heif  # noqa: PLC0415 - an extra

    pillow_heif.options.DECODE_THREADS = 1  # photos are decoded in parallel already
    width, height = heif_size(data.getvalue())
    if width * height > MAX_PIXELS:
        raise _too_large(width, height)
    reader: Callable[[BytesIO], ImageFile.ImageFile] = pillow_heif.HeifImageFile
    return reader(data)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 if it is missing or unreadable."""
    if "exif" not in image.info or image.format == "HEIF":  # pillow-heif has applied it already
        return 1
    with warnings.catch_warnings():
        # A photo with broken EXIF is still a photo.
        warnings.simplefilter("ignore")
        try:
            value = image.getexif().get(_ORIENTATION_TAG, 1)
        except _DAMAGE:
            return 1
    return value if isinstance(value, int) else 1


def _coloured(image: Image.Image, orientation: int) -> Image.Image:
    """Carry out the steps that every photo goes through before it is scaled."""
    for step in _COLOUR_STEPS.values():
        image = step(image, orientation)
    return image


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _swap(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation in (5, 6, 7, 8) else size


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB in sRGB: alpha composited on white, 16 bits scaled to 8, other modes converted by Pillow."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        values = np.asarray(image).astype(np.int32)
        grey = Image.fromarray((np.clip(values, 0, 0xFFFF) >> 8).astype(np.uint8))
        rgb = in_srgb(grey, profile)
        if "transparency" in image.info:
            # Nor does Pillow handle the single transparent value of 16-bit grey.
            rgb.paste((255, 255, 255), mask=Image.fromarray(values == image.info["transparency"]))
        return rgb
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        grey_only = image.mode in ("LA", "La", "L", "1")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        colours = rgba.getchannel("R") if grey_only else rgba.convert("RGB")
        white.paste(in_srgb(colours, profile), mask=rgba.getchannel("A"))
        return white
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return in_srgb(image, profile)


#: Steps before scaling by their names in a card, in order. Each takes the image and its orientation.
_COLOUR_STEPS: Final[dict[str, Callable[[Image.Image, int], Image.Image]]] = {
    "srgb": lambda image, _: _to_rgb(image),
    "orient": _upright,
}


def _scaling(preprocessing: Preprocessing) -> Callable[[int, int], tuple[int, int]]:
    """Return a function from a photo's size to the size it is scaled to before it is placed in the square."""
    size = preprocessing.size

    def scale(width: int, height: int) -> tuple[int, int]:
        if preprocessing.fit == "squash":
            return size, size
        side = max(width, height) if preprocessing.fit == "pad" else min(width, height)
        return max(1, round(width * size / side)), max(1, round(height * size / side))

    return scale


def _fitted(image: Image.Image, upright_size: tuple[int, int], preprocessing: Preprocessing) -> Photo:
    if image.size != (preprocessing.size, preprocessing.size):
        image = into_square(image, preprocessing.size, preprocessing.fit, KERNELS[preprocessing.kernel])
    # As np.asarray, which asks for the interface of arrays first and takes half as long again.
    pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(preprocessing.size, preprocessing.size, 3)
    return Photo(*upright_size, pixels)


def into_square(image: Image.Image, size: int, fit: str, kernel: Image.Resampling) -> Image.Image:
    """Return an RGB image as a square of side ``size``, fitted into it as :class:`Preprocessing` says."""
    if fit == "squash":
        return image.resize((size, size), kernel)
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        return image.resize((size, size), kernel, box=(left, top, left + side, top + side))
    side = max(image.size)
    scaled = max(1, round(image.width * size / side)), max(1, round(image.height * size / side))
    if image.size != scaled:
        image = image.resize(scaled, kernel)
    if scaled == (size, size):
        return image
    square = Image.new("RGB", (size, size), (255, 255, 255))
    square.paste(image, ((size - scaled[0]) // 2, (size - scaled[1]) // 2))
    return square


def _brief(exc: BaseException) -> str:
    return (str(exc) or type(exc).__name__)[:120]
