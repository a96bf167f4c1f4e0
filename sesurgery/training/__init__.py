"""Help for training an operated model in a loop of your own: groups, phases, frozen norms, distillation."""

from sesurgery.training.distillation import Distillation
from sesurgery.training.groups import new_parameters, param_groups, print_trainable_parameters
from sesurgery.training.norms import freeze_norms, thaw_norms
from sesurgery.training.phases import Phases

__all__ = [
    "Distillation",
    "Phases",
    "freeze_norms",
    "new_parameters",
    "param_groups",
    "print_trainable_parameters",
    "thaw_norms",
]
