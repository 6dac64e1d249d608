"""Does a file lie where its path says, or does a link lead out of the folder that was given?"""

from __future__ import annotations

import os


class Root:
    """A folder that nothing may lead out of; it may itself be reached through a link.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._real = os.path.realpath(path)
        self._folders: dict[str, bool] = {}  # a table names the same folder a thousand times

    def holds(self, path: str) -> bool:
        """Whether a path, once all its links are followed, lies in the folder.

        Args:
            path: absolute.
        """
        if os.path.islink(path):  # noqa: PTH114 - a Path for each of a million files costs more than the look
            return self._is_above(os.path.realpath(path))
        folder = os.path.dirname(path)  # noqa: PTH120 - as above
        if folder not in self._folders:
            self._folders[folder] = self._is_above(os.path.realpath(folder))
        return self._folders[folder]

    def _is_above(self, real: str) -> bool:
        return os.path.commonpath([self._real, real]) == self._real
