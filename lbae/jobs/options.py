"""Types of options that several jobs share."""

from typing import Annotated

import tyro

Names = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
"""An option that may be given several times."""
