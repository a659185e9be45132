"""Files of an artifact that may be missing or damaged: one error, which names the file."""

from lbae.errors import UserError
from lbae.io.storage.location import Location


def stored_bytes(location: Location, most: int) -> bytes:
    """The content of a file that an artifact must have.

    Raises:
        UserError: The file is missing, larger than ``most`` bytes, or a device or pipe.
    """
    try:
        return location.read_bytes(most=most)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise damaged(location, "there is no such file") from error


def damaged(location: Location, what: str) -> UserError:
    """The error for a file whose content cannot be used."""
    return UserError(f"{location} is damaged: {what}; restore the file, or write the artifact again")
