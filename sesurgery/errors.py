"""Every exception of the package: what happened, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


class SurgeryError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: one sentence that says what happened.
        where: the place: a module path, a file, a key of a recipe.
        remedy: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(self.text())

    def text(self) -> str:
        """The message on one or more lines: ``where: what; remedy``."""
        place = f"{self.where}: " if self.where else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.__dict__.copy(), self.args)


class InputError(SurgeryError):
    """Bad input: nothing was changed and nothing was written."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that no registry holds, with the nearest names it does hold."""

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        where: str | None = None,
        remedy: str = "",
        also: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.name = name
        self.nearest = nearest(name, known)
        hint = f"did you mean {either(self.nearest)}?" if self.nearest else remedy
        super().__init__(f'unknown {kind} "{name}"', where=where, remedy="; ".join(filter(None, (hint, *also))) or None)


class RecipeError(InputError):
    """A recipe that cannot be read; ``problems`` holds every error found, not just the first."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{source} › {problem}" for problem in problems))


class StalePlanError(InputError):
    """A plan made for another network: the model differs where the plan would cut."""


class WeightsError(InputError):
    """A checkpoint that does not fit the model, or is no checkpoint."""


class ArtifactError(InputError):
    """A saved folder that cannot be trusted, read or written."""


class ModelError(InputError):
    """A model that cannot be created, copied or run."""


class NothingMatchedError(SurgeryError):
    """A recipe that found no site, with the nearest miss and its reason."""

    exit_code = 3


class FrozenValueError(SurgeryError):
    """A value that was fixed when a host was operated has changed since.

    Nothing is fixed any more, since the author's code runs. The name stays for those who catch it.
    """


class Unfit(Exception):
    """A node or an edit has no meaning at a site. Its text is the reason given to the user.

    Raised inside planning and turned into a :class:`~sesurgery.plans.Skip`; it never reaches a caller.
    """


class UnfitHosts(Unfit):
    """Hosts that cannot be given a new forward, by path; planning leaves their edits out and says why."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(next(iter(reasons.values())))
        self.reasons = reasons


def nearest(name: str, known: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """The known names most like ``name``, best first; empty where none is near."""
    return tuple(difflib.get_close_matches(name, list(dict.fromkeys(known)), n=count, cutoff=0.6))


def either(names: Sequence[str]) -> str:
    """``"a"``, ``"a" or "b"``, ``"a", "b" or "c"``."""
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _rebuild(kind: type[SurgeryError], state: dict[str, object], args: tuple[object, ...]) -> SurgeryError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error
