"""Modules as users write them."""

from tests.catalogue.written.architectures import ARCHITECTURES
from tests.catalogue.written.forms import FORMS
from tests.catalogue.written.in_place import IN_PLACE
from tests.catalogue.written.special import SPECIAL
from tests.catalogue.written.weights import WEIGHTS

GROUPS = (FORMS, IN_PLACE, SPECIAL, WEIGHTS, ARCHITECTURES)
