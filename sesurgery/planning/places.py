"""How many places each phrase of ``at:`` has in a model."""

from __future__ import annotations

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.placement.named_layers import Layer, layers_of
from sesurgery.placement.placements import sites
from sesurgery.placement.sites import Site
from sesurgery.recipe.phrases import PHRASES, At
from sesurgery.words.paths import outwards


def places_in(anatomy: Anatomy) -> dict[str, int]:
    """Each phrase with the number of its places: sites for a layer, or layers that may be changed."""
    return {name: _count(anatomy, At(name)) for name in PHRASES}


def _count(anatomy: Anatomy, at: At) -> int:
    if at.role == "attention":
        return len(list(anatomy.attention_modules())) + len(list(anatomy.written_gates()))
    if at.role == "stage":
        return sum(bool(stage.blocks) for stage in anatomy.stages)
    if at.role != "place":
        return sum(isinstance(layer, Layer) for layer in layers_of(anatomy, at))
    places = [site for site in sites(anatomy, at) if isinstance(site, Site)]
    if at.layer.endswith(("conv", "linear")) and anatomy.blocks:
        return sum(_in_block(anatomy, site) for site in places)
    return len(places)


def _in_block(anatomy: Anatomy, site: Site) -> bool:
    blocks = {anatomy.survey.paths[block] for block in anatomy.blocks}
    return any(outer in blocks for outer in outwards(anatomy.survey.paths[site.host]))
