"""What the tests beside other libraries' models share: those libraries can be imported."""

from .torchvision_operators import declare

declare()
