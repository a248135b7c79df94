"""A style for QGIS beside the result: one component, blue to red about zero."""

import os
import pathlib
from xml.etree import ElementTree

from displacement.files import atomic_path

# ColorBrewer's RdBu, from the lowest value to the highest.
_COLOURS = ("#2166ac", "#67a9cf", "#d1e5f0", "#f7f7f7", "#fddbc7", "#ef8a62", "#b2182b")


def style_text(limit: float, units: str) -> str:
    """QGIS layer style (QML) that shows the first band from -limit to limit.

    Args:
      limit: largest absolute value that gets a colour of its own, in `units`, positive.
      units: "m" or "px".
    """
    root = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe,
        "rasterrenderer",
        type="singlebandpseudocolor",
        band="1",
        opacity="1",
        alphaBand="-1",
        classificationMin=f"{-limit:.6g}",
        classificationMax=f"{limit:.6g}",
    )
    shader = ElementTree.SubElement(
        ElementTree.SubElement(renderer, "rastershader"), "colorrampshader"
    )
    shader.attrib |= {
        "colorRampType": "INTERPOLATED",
        "classificationMode": "1",
        "clip": "0",
        "minimumValue": f"{-limit:.6g}",
        "maximumValue": f"{limit:.6g}",
    }
    for index, colour in enumerate(_COLOURS):
        value = limit * (2 * index / (len(_COLOURS) - 1) - 1)
        ElementTree.SubElement(
            shader,
            "item",
            value=f"{value:.6g}",
            label=f"{value:+.3g} {units}",
            color=colour,
            alpha="255",
        )
    ElementTree.indent(root)
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        + ElementTree.tostring(root, encoding="unicode")
        + "\n"
    )


def write_style(path: str | os.PathLike, limit: float, units: str) -> None:
    """Writes `style_text`, whole or not at all."""
    with atomic_path(path) as partial:
        pathlib.Path(partial).write_text(style_text(limit, units), encoding="utf-8")
