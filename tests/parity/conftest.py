"""What the tests beside other libraries' models share."""

from .torchvision_operators import declare

declare()
