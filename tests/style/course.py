"""course.py: rules for what the course shows: its figures, slides/figures/*.svg, and its decks, slides/NN-*.md.

Whether everything fits is measured by a browser (`make slides-check`); here is what needs none, so widths of texts
are estimates, a little on the small side.
"""

import re
from dataclasses import dataclass
from xml.etree import ElementTree

FIGURES = r"slides/figures/[^/]+\.svg"
DECKS = r"slides/\d\d-[a-z0-9-]+\.md"
SHOWN_IN = r"(slides|labs|solutions)/.*\.md"
SVG = "{http://www.w3.org/2000/svg}"
FONTS = {"sans-serif", "serif", "monospace"}
FOREIGN = {"script", "image", "foreignObject", "iframe", "style"}
PAGES = (15, 25)
LEGIBLE = 14  # pixels, of a page of 720
SMALLEST = 12  # units, of a viewBox of some 760
SLACK = 4  # units
FRONT = ("marp: true", "theme: hvlab", "paginate: true", 'title: "', "footer: ", "minutes: ")

# Widths in hundredths of the font size, as in Liberation Sans and Arial.
WIDTHS = {**dict.fromkeys("ijl'|", 22), **dict.fromkeys(" !.,/:;I[]\\ft", 28), **dict.fromkeys("()-r`", 33),
          **dict.fromkeys("cksvxyzJ\"", 50), **dict.fromkeys("ABEKPSVXY&", 67), **dict.fromkeys("CDHNRUw", 72),
          **dict.fromkeys("GOQ", 78), **dict.fromkeys("mM", 83), **dict.fromkeys("W@%", 92)}  # fmt: skip
USUAL, MONOSPACE = 55, 60


def figures(tree):
    """A figure is well-formed, stands alone, has title, background and generic fonts, and is shown somewhere."""
    documents = "".join(tree.text(name) for name in tree.matching(SHOWN_IN))
    for name in tree.matching(FIGURES):
        if "figures/" + name.rpartition("/")[2] not in documents:
            yield f"{name}: no handout and no deck shows it"
        try:
            root = ElementTree.fromstring(tree.text(name))
        except ElementTree.ParseError as error:
            yield f"{name}: {error}"
            continue
        for complaint in figure(root):
            yield f"{name}: {complaint}"


def figure(root):
    box = [float(number) for number in re.findall(r"-?[\d.]+", root.get("viewBox", ""))]
    if root.tag != SVG + "svg" or len(box) != 4:
        yield "its root is no svg with a viewBox"
        return
    title = root.find(SVG + "title")
    if title is None or not (title.text or "").strip():
        yield "has no title"
    if not any(covers(rect, box) for rect in root.iter(SVG + "rect")):
        yield "has no background: a filled rect of the viewBox's size, so that it can be read on a dark page"
    yield from references(root)
    for text, style in texts(root, Style()):
        yield from text_complaints(text, style, box)


def covers(rect, box):
    try:
        size = [float(rect.get(side, "0")) for side in ("width", "height")]
    except ValueError:  # 100%
        return rect.get("width") == rect.get("height") == "100%"
    return size[0] >= box[2] and size[1] >= box[3] and rect.get("fill", "none") != "none"


def references(root):
    for element in root.iter():
        tag = str(element.tag).removeprefix(SVG)
        if tag in FOREIGN:
            yield f"<{tag}> has no place in a figure"
        for key, value in element.attrib.items():
            if key.endswith("href") and not value.startswith("#") or re.search(r"url\((?!#)", value):
                yield f"<{tag}> refers to {value}"
            families = value.replace("'", "").split(",") if key == "font-family" else []
            for family in families:
                if family.strip() not in FONTS:
                    yield f"font-family {family.strip()}: a figure names {', '.join(sorted(FONTS))} only"


# --- texts: where each begins, and how wide it may be ----------------------------------------------


@dataclass(frozen=True)
class Style:
    """What an element has from those around it. shift is where its origin lies; None: cannot be told."""

    size: float = 16.0
    anchor: str = "start"
    mono: bool = False
    shift: tuple = (0.0, 0.0)

    def inside(self, element):
        return Style(
            size=number(element.get("font-size"), self.size),
            anchor=element.get("text-anchor", self.anchor),
            mono="monospace" in element.get("font-family", "monospace" if self.mono else ""),
            shift=shifted(self.shift, element.get("transform", "").strip()),
        )


def shifted(shift, transform):
    """translate() can be followed; what is turned or scaled is left to the browser's check."""
    if not transform or shift is None:
        return shift
    found = re.fullmatch(r"translate\(\s*(-?[\d.]+)(?:[\s,]+(-?[\d.]+))?\s*\)", transform)
    return (shift[0] + float(found[1]), shift[1] + float(found[2] or 0)) if found else None


def number(value, otherwise):
    found = re.match(r"-?[\d.]+", value or "")
    return float(found[0]) if found else otherwise


def texts(element, outer):
    """(text element, its Style), but for those in <defs>."""
    style = outer.inside(element)
    if element.tag == SVG + "text":
        yield element, style
    elif element.tag != SVG + "defs":
        for child in element:
            yield from texts(child, style)


def width(text, style):
    units = sum(MONOSPACE if style.mono else WIDTHS.get(letter, USUAL) for letter in text)
    return units * style.size / 100


def rows(element, style):
    """(text, width, x, y) of what stands in one row; a tspan with an x of its own begins a new one."""
    x, y = number(element.get("x"), 0.0), number(element.get("y"), 0.0)
    row, wide = element.text or "", width(element.text or "", style)
    for span in element:
        if span.get("x"):
            yield row, wide, x, y
            row, wide, x, y = "", 0.0, number(span.get("x"), x), number(span.get("y"), y)
        y += number(span.get("dy"), 0.0)
        text, tail = "".join(span.itertext()), span.tail or ""
        row += text + tail
        wide += number(span.get("dx"), 0.0) + width(text, style.inside(span)) + width(tail, style)
    yield row, wide, x, y


def text_complaints(element, style, box):
    if style.size < SMALLEST:
        yield f'"{"".join(element.itertext()).strip()[:40]}" is only {style.size:g} tall'
    for row, wide, x, y in rows(element, style) if style.shift else ():
        left = x + style.shift[0] - {"middle": wide / 2, "end": wide}.get(style.anchor, 0.0)
        base = y + style.shift[1]
        right, bottom = box[0] + box[2], box[1] + box[3]
        over = max(left + wide - right, box[0] - left, base - bottom, box[1] - base + style.size / 2)
        if row.strip() and over > SLACK:
            yield f'"{row.strip()[:40]}" sticks out of the viewBox by about {over:.0f}'


# --- decks -----------------------------------------------------------------------------------------------


def decks(tree):
    """A deck says what it is, has its 15 to 25 pages with figures, and each has notes for the speaker."""
    for name in tree.matching(DECKS):
        front, _, body = tree.text(name).removeprefix("---\n").partition("\n---\n")
        for line in FRONT:
            if not re.search(f"^{re.escape(line)}", front, re.M):
                yield f"{name}: its front matter lacks `{line}`"
        if "](figures/" not in body:
            yield f"{name}: shows no figure"
        yield from (f"{name}: {complaint}" for complaint in shown_figures(tree, body))
        found = list(pages(body))
        if not PAGES[0] <= len(found) <= PAGES[1]:
            yield f"{name}: {len(found)} pages, not {PAGES[0]} to {PAGES[1]}"
        for page, text in enumerate(found, 1):
            if not re.search(r"<!--(?!\s*_?[a-z]+:)", text):
                yield f"{name}, page {page}: no notes for the speaker"


def shown_figures(tree, body):
    """What is wrong with the sizes at which a deck shows its figures."""
    for options, figure_name in re.findall(r"!\[([^\]]*)\]\((figures/[^)]+\.svg)\)", body):
        height = re.search(r"\bh:(\d+)", options)
        if not height:
            yield f"{figure_name} is shown without a height, as h:500"
            continue
        try:
            root = ElementTree.fromstring(tree.text("slides/" + figure_name))
            scale = int(height[1]) / float(root.get("viewBox").split()[3])
        except (OSError, ElementTree.ParseError, AttributeError, IndexError, ValueError):
            continue  # others say so
        least = min((style.size for _, style in texts(root, Style())), default=LEGIBLE / scale) * scale
        if least < LEGIBLE - 0.1:
            yield f"{figure_name}: its smallest letters are {least:.1f} px on the page, not {LEGIBLE} (of 720)"


def pages(body):
    """The pages of a deck; a --- in a listing is no end of one."""
    page, listing = [], False
    for line in body.splitlines():
        listing ^= line.startswith("```")
        if line == "---" and not listing:
            yield "\n".join(page)
            page = []
        else:
            page.append(line)
    yield "\n".join(page)
