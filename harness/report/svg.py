"""SVG files as elements of a page, in the page's colours."""

import re
import xml.etree.ElementTree as ET
from typing import Final

INK: Final = "#010203"
"""Stands for the page's text colour until the SVG is written."""
FAINT: Final = "#020304"
"""Stands for the page's colour of grid lines."""


def inline_svg(svg: str, *, key: str, title: str, description: str) -> str:
    """An SVG file as an element for a page: own ids, the page's colours, a title and a description."""
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            element.set(name.partition("}")[2] if "}" in name else name, _own(name, value, key))
    size = [float(n) for n in root.attrib["viewBox"].split()]
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{key}-t {key}-d", "width": f"{size[2] * 4 / 3:.0f}"}
    root.attrib |= {"xmlns": "http://www.w3.org/2000/svg", "style": "stroke-linejoin: round"}
    for position, (tag, content, suffix) in enumerate((("title", title, "t"), ("desc", description, "d"))):
        element = ET.Element(tag, {"id": f"{key}-{suffix}"})
        element.text = content
        root.insert(position, element)
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def _own(name: str, value: str, key: str) -> str:
    """One attribute: ids made unique in the page, placeholder colours and fonts made the page's."""
    if name == "id":
        return f"{key}-{value}"
    if name.endswith("href") and value.startswith("#"):
        return f"#{key}-{value[1:]}"
    if name == "d":
        return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", value)
    value = value.replace("url(#", f"url(#{key}-").replace(INK, "currentColor")
    value = value.replace(FAINT, "var(--grid, #8884)")
    return re.sub(r"(font: [^;']*?px|font-family:) [^;]*", r"\1 system-ui, sans-serif", value)
