"""The one error of a package: it names the package, and does not stop the others."""

from turnout.config.errors import UserError


class PackageError(UserError):
    """A package could not be had, or holds what it should not."""

    def __init__(self, package: str, reason: str) -> None:
        super().__init__(f"{package}: {reason}")
        self.package = package
        self.reason = reason
