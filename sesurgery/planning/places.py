"""How many places each phrase of ``at:`` has in a model."""

from __future__ import annotations

from sesurgery.anatomy.anatomy import Anatomy
from sesurgery.placement.named_layers import Layer, layers_of
from sesurgery.placement.placements import sites
from sesurgery.placement.sites import Site
from sesurgery.recipe.phrases import PHRASES, At


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
    if at.of_blocks and anatomy.blocks:
        return sum(anatomy.block_of(anatomy.survey.paths[site.host]) is not None for site in places)
    return len(places)
