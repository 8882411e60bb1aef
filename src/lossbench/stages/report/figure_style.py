"""What all figures share: look, colours, files, and a small figure for each class."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from lossbench.common.files import whole
from lossbench.common.provenance import sha256
from lossbench.stages.report.results import Results

WIDTH = 4.4  # inches: a third of a wide page, the whole of a narrow one
MAX_STEM = 200  # letters: file systems end at 255 bytes
MAX_LINES = 7  # in one plot, besides the reference; more losses cannot be told apart
MAX_VECTOR_POINTS = 200  # of one figure; more are drawn as pixels, or the page gets heavy
WEBP_QUALITY = 85  # of photographs on the page: a quarter of the PNG's size
# Seaborn's for the colour-blind, without those that are too pale on white or taken for grey.
COLOURS = [seaborn.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 9)]
REFERENCE_COLOUR = (0.15, 0.15, 0.15)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 2)))
# Colour and marker of each verdict; the style sheet of the page gets the colours from here.
VERDICTS = {
    "better": ("#0173b2", "^"),
    "worse": ("#c04a00", "v"),
    "equivalent": ("#00755a", "s"),
    "undecided": ("#5f5f5f", "o"),
    "not learned": ("#5f5f5f", "x"),
}
LOST = "#8f0038"  # a class that the loss does not find and the reference finds
_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],  # the second is as wide
    "svg.fonttype": "none",  # letters, not their outlines: a quarter of the size
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 150,
    "svg.hashsalt": "lossbench",  # the same figure gives the same file
    "text.parse_math": False,  # names are names, also with a $ in them
}


class Picture(NamedTuple):
    """A figure as the page shows it: its heading there, its name, and its image as a data URI."""

    group: str
    name: str
    uri: str


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures."""
    with matplotlib.rc_context({**seaborn.axes_style("whitegrid"), **_STYLE}):
        yield


def save(
    results: Results, figure: Figure, group: str, name: str, *parts: object, ending: str = "svg"
) -> Picture:
    """Write a figure to a file whose name the parts make, svg or png, and show it on the page.

    A png is a WebP image there: the page is a file that people mail.
    """
    path, is_vector = results.figures / f"{stem(*parts)}.{ending}", ending == "svg"
    buffer = io.BytesIO()
    metadata = {"Date": None} if is_vector else {"Software": None}
    figure.savefig(buffer, format=ending, metadata=metadata)
    with whole(path) as part:
        part.write_bytes(buffer.getvalue())
    if not is_vector:
        image = Image.open(buffer).convert("RGB")
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    media_type = "image/svg+xml" if is_vector else "image/webp"
    content = base64.b64encode(buffer.getvalue()).decode()
    return Picture(group, name, f"data:{media_type};base64,{content}")


def stem(*parts: object) -> str:
    """A file name of lower-case letters, digits and _; of long parts the beginning and a digest."""
    text = "_".join(map(str, parts))
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return name if len(name) <= MAX_STEM else f"{name[: MAX_STEM - 13]}_{sha256(text)[:12]}"


def heading(dataset: str, model: str) -> str:
    """What stands over the figures of a dataset and model."""
    return f"{dataset}, {model}"


def per_class(
    results: Results, kind: str, draw: Callable[[Results, str, str, str], Iterator[Figure]]
) -> list[Picture]:
    """The figures that `draw` gives for a dataset, model and class, each saved and titled."""
    pictures = []
    for dataset, model in results.groups:
        for number, name in enumerate(results.classes(dataset), 1):
            is_renamed = name == results.background(dataset) and name != "background"
            title = f"{name} (background)" if is_renamed else name
            for part, figure in enumerate(draw(results, dataset, model, name), 1):
                titled(figure, title)
                file = [kind, dataset, model, number, name, *([part] if part > 1 else [])]
                pictures.append(save(results, figure, heading(dataset, model), name, *file))
    return pictures


def small(height: float, rows: int = 1, columns: int = 1, **options: object) -> tuple[Figure, Any]:
    """A figure of the usual width, `height` inches high, and its axes."""
    # Not through pyplot: nothing to close, and no display is looked for.
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def titled(figure: Figure, text: str) -> None:
    """Give a figure its title: over the axes, or over all where it has several."""
    if len(figure.axes) == 1:
        figure.axes[0].set_title(text, loc="left")
    else:
        figure.suptitle(text, fontsize=10, x=0.02, ha="left")


def losses_on_y(axes: Axes, names: list[str]) -> None:
    """A row for each loss, the first on top."""
    labels = [wrapped(name, 22) for name in names]
    lines = max((label.count("\n") + 1 for label in labels), default=1)
    axes.set_yticks(range(len(names)), labels, fontsize=8 if lines == 1 else 6.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_ylabel("")


def colour(results: Results, loss: str) -> tuple[float, float, float]:
    """The colour of a loss, the same in all figures; distinct within a group of lines."""
    position = results.losses.index(loss)
    return REFERENCE_COLOUR if position == 0 else COLOURS[(position - 1) % MAX_LINES]


def dashes(results: Results, loss: str) -> str | tuple:
    """The line style of a loss, distinct within a group of lines as well."""
    return "-" if loss == results.reference else DASHES[results.losses.index(loss) % MAX_LINES]


def line_groups(results: Results) -> list[list[str]]:
    """The losses in groups that fit one plot of lines, the reference in each."""
    others = results.losses[1:]
    starts = range(0, len(others), MAX_LINES)
    parts = [others[i : i + MAX_LINES] for i in starts] or [[]]
    return [[results.reference, *part] for part in parts]


def wrapped(name: str, width: int = 16) -> str:
    """A long name on several lines, broken at _ where it can be."""
    lines = [""]
    for piece in re.findall(rf"[^_]{{1,{width}}}_?|_", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)
