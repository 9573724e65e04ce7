"""What a `ModelPicker` holds and does, without any widget: the catalog against this machine, and the line to run.

Everything is an estimate from configurations (`slmkit.estimate`); nothing is loaded, and no hub is called.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import traitlets

from slmkit import catalog, doctor, footprint, text
from slmkit.assets import licences
from slmkit.commands import fit, models
from slmkit.errors import InputError, short
from slmkit.estimate import Estimate, estimate, gigabytes
from slmkit.estimate.answer import DEFAULT_BATCH, DEFAULT_SEQ
from slmkit.jobs.background import Job, Snapshot
from slmkit_widgets import display
from slmkit_widgets.models.base import ViewModel

BITS = (16, 8, 4)
BACKENDS = ("bnb", "mlx")
TRYING = "The backends are being tried, in a process of their own."
WORDS = {doctor.OK: "runs here", doctor.WARN: "does not run here", doctor.FAIL: "does not run here"}
_SETTINGS = ("bits", "backend", "method", "seq", "batch", "limit")
_FILTERS = ("find", "only_fitting", "only_on_disk")
_WRONG = (ValueError, OSError)  # InputError and AssetError, and names that no file can have


class PickerModel(ViewModel):
    """The models of the catalog, sorted as `slmkit models --fits` does, and one of them looked at closely.

    Attributes
    ----------
    bits : {16, 8, 4} or None
        How weights are stored; None takes 4 for "qlora" and 16 otherwise.
    backend : {"bnb", "mlx"} or None
        None takes the best that runs here.
    method : str
        One of `slmkit.estimate.METHODS`: what is to be done with the model.
    seq, batch : int
        Tokens of a row, and rows at once.
    limit : str
        Memory to plan with, such as "8GB", for another machine than this one; "" asks this one.
    find : str
        Only models with this in their name, title or licence.
    only_fitting, only_on_disk : bool
    name : str
        The model that was chosen: a name of the catalog, or whatever else `slmkit.estimate` takes.
    table : tuple of dict
        One line a model: name, here ("tune", "serve" or "no"), parameters, needs, fits, serve, tune, licence, on_disk.
    headline, licence, shell : str
        The answer with its arithmetic, or why there is none; licence and gate; what does the same on the command line.
    to_accept : bool
        Whether its terms have to be accepted before it is used.
    method_options, bits_options, backend_options, name_options : list of (str, value)
        What may be chosen; the models are those of the table, and the one that was chosen.
    terms : tuple of dict
        Of the peak memory of the model that was chosen: term, megabytes, where, why.
    lines : tuple of str
        What else is known: stored size, largest settings, times, notes.
    engines : tuple of str
        Which backends are installed, and after `probe` which of them run here, and why not.
    """

    bits = traitlets.Int(None, allow_none=True)
    backend = traitlets.Unicode(None, allow_none=True)
    method = traitlets.Unicode("infer")
    seq = traitlets.Int(DEFAULT_SEQ)
    batch = traitlets.Int(DEFAULT_BATCH)
    limit = traitlets.Unicode("")
    find = traitlets.Unicode("")
    only_fitting = traitlets.Bool(False)
    only_on_disk = traitlets.Bool(False)
    name = traitlets.Unicode("")
    method_options: traitlets.List[Any] = traitlets.List(
        [(words, method) for method, words in fit.WORDS.items()], read_only=True
    )
    bits_options: traitlets.List[Any] = traitlets.List(
        [("as usual", None), *((str(b), b) for b in BITS)], read_only=True
    )
    backend_options: traitlets.List[Any] = traitlets.List(
        [("the best that runs here", None), *((b, b) for b in BACKENDS)], read_only=True
    )
    name_options: traitlets.List[Any] = traitlets.List(read_only=True)
    to_accept = traitlets.Bool(read_only=True)
    table = traitlets.Tuple(read_only=True)
    headline = traitlets.Unicode(read_only=True)
    licence = traitlets.Unicode(read_only=True)
    shell = traitlets.Unicode(read_only=True)
    terms = traitlets.Tuple(read_only=True)
    lines = traitlets.Tuple(read_only=True)
    engines = traitlets.Tuple(read_only=True)

    def __init__(self, **settings: Any) -> None:
        known = (*_SETTINGS, *_FILTERS, "name")
        if unknown := sorted(set(settings) - {*known}):
            raise InputError(f"unknown settings {', '.join(unknown)}; known: {', '.join(known)}")
        self._all: list[dict[str, Any]] = []
        self._limit: int | None = None
        super().__init__(**settings)
        self.set_trait("engines", tuple(_installed()))
        self._refresh()
        if not self.name:
            self.name = self._first()
            self._look()
        self.observe(lambda change: self._refresh(), list(_SETTINGS))
        self.observe(lambda change: self._filter(), list(_FILTERS))
        self.observe(lambda change: self._look(), "name")

    @traitlets.validate("name")
    def _check_name(self, proposal: Mapping[str, Any]) -> str:
        name = str(proposal["value"])
        if not name.isprintable():
            raise InputError(f"a model's name must have printable characters only; got {short(name)!r}")
        return name

    @traitlets.validate("limit")
    def _check_limit(self, proposal: Mapping[str, Any]) -> str:
        given = str(proposal["value"]).strip()
        self._limit = footprint.parse_bytes(given) if given else None
        return given

    def describe(self) -> str:
        """The answer and the Python, in plain text."""
        return f"{self.headline}\n{self.code}"

    def accept(self) -> None:
        """Accept the terms of the model that was chosen, once on this machine; nothing to do where it has none."""
        if self.name in catalog.MODELS:
            licences.accept_model(catalog.MODELS[self.name])
        self._refresh()

    def probe(self, *, wait: bool = False) -> None:
        """Try each backend, in a process of its own: that takes seconds, and the engines stay out of this kernel."""
        if self.engines == (TRYING,):
            raise InputError("the backends are being tried already")
        self.set_trait("engines", (TRYING,))
        job = Job(self._probe).watch(self._probed).start()
        if wait:
            job.result()

    def _probe(self) -> None:
        found = Job(doctor.backend_checks).start(in_child=True).result()
        here = [check for check in found if not check.name.endswith("dummy")]
        self.set_trait("engines", tuple(text.clean(f"{c.name}: {WORDS[c.status]}, {c.message}", 400) for c in here))

    def _probed(self, now: Snapshot) -> None:
        if now.state == "failed":
            self.set_trait("engines", (text.clean(f"The backends could not be tried: {now.message}", 400),))

    def _refresh(self) -> None:
        """Compute the table anew, and look at the model again."""
        self._all = [self._line(row) for row in sorted(models.rows(limit_bytes=self._limit), key=models.rank)]
        self._filter()
        self._look()

    def _line(self, row: Mapping[str, Any]) -> dict[str, Any]:
        found, why = self._estimate(row["name"])
        return {
            "name": row["name"],
            "here": models.mark(row),
            "parameters": f"{row['million_parameters']:,} M",
            "needs": gigabytes(found.peak_bytes) if found else "-",
            "fits": "no" if found is None or not found.fits else "yes",
            "serve": row["fits"],
            "tune": row["tunes"] or "-",
            "licence": row["licence"] + (", gated" if row["gated"] else ""),
            "on_disk": row["on_disk"],
            "why": why,
            "title": row["title"],
        }

    def _estimate(self, name: str) -> tuple[Estimate | None, str]:
        """The estimate of one model with these settings, or why there is none."""
        how = {name: getattr(self, name) for name in ("bits", "backend", "method", "seq", "batch")}
        try:
            return estimate(name, limit_bytes=self._limit, **how), ""
        except _WRONG as error:
            return None, text.clean(error, 1000)

    def _filter(self) -> None:
        wanted = self.find.strip().casefold()
        kept = [
            line
            for line in self._all
            if wanted in f"{line['name']} {line['title']} {line['licence']}".casefold()
            and not (self.only_fitting and line["fits"] == "no")
            and not (self.only_on_disk and line["on_disk"] == "no")
        ]
        self.set_trait("table", tuple(kept))
        self._offer()

    def _offer(self) -> None:
        names = [line["name"] for line in self.table]
        others = [self.name] if self.name and self.name not in names else []
        self.set_trait("name_options", display.choices([*others, *names]))

    def _first(self) -> str:
        """The first model that fits and is on this disk, else the first that fits, else the first."""
        for wish in ({"fits": "yes", "on_disk": "yes"}, {"fits": "yes"}, {}):
            for line in self._all:
                if wish.items() <= line.items():
                    return str(line["name"])
        return ""

    def _look(self) -> None:
        self._offer()
        if not self.name:
            return
        found, why = self._estimate(self.name)
        with self.hold_trait_notifications():
            self.set_trait("headline", why if found is None else fit.headline(found))
            self.set_trait("lines", () if found is None else tuple(fit.lines(found)))
            self.set_trait("terms", () if found is None else tuple(_terms(found)))
            self.set_trait("licence", _licence(self.name))
            self.set_trait("to_accept", _to_be_accepted(self.name))
            self.code = "" if found is None else self._code(found)
            self.set_trait("shell", "" if found is None else self._shell(found))

    def _asked(self, found: Estimate) -> dict[str, Any]:
        """The settings that are not what `slmkit.estimate` takes by itself."""
        usual = {"method": "infer", "seq": DEFAULT_SEQ, "batch": DEFAULT_BATCH, "backend": None}
        changed = {name: getattr(self, name) for name, value in usual.items() if getattr(self, name) != value}
        return {"bits": found.use.bits, **changed}

    def _code(self, found: Estimate) -> str:
        asked = self._asked(found)
        loading: dict[str, Any] = {name: asked[name] for name in ("bits", "backend") if name in asked}
        if self._limit is not None:
            asked["limit_bytes"] = self._limit
        lines = ["import slmkit", ""]
        if _to_be_accepted(self.name):
            lines.append(f"slmkit.accept_license({self.name!r})  # after reading the terms")
        lines += [f"slmkit.estimate({_call(self.name, asked)})", f"model = slmkit.load({_call(self.name, loading)})"]
        return "\n".join(lines)

    def _shell(self, found: Estimate) -> str:
        options = [f"--{name} {shlex.quote(str(value))}" for name, value in self._asked(found).items()]
        options += [f"--limit {shlex.quote(self.limit)}"] if self._limit is not None else []
        lines = [f"slmkit fit {shlex.quote(self.name)} {' '.join(options)}"]
        entry = catalog.MODELS.get(self.name)
        if entry and entry.package and any(r["name"] == self.name and r["on_disk"] == "no" for r in self._all):
            accept = " --accept-license" if _to_be_accepted(self.name) else ""
            lines.insert(0, f"slmkit models --install {self.name}{accept}")
        return "\n".join(lines)


def _installed() -> Iterator[str]:
    """What is there of each backend, from its packages alone."""
    for name in BACKENDS:
        lacking = [package for package in doctor.EXTRAS[name] if not doctor.installed_version(package)]
        told = f"lacks {', '.join(lacking)}" if lacking else "installed; whether it runs was not tried"
        yield f"backend {name}: {told}"


def _call(name: str, values: Mapping[str, Any]) -> str:
    return ", ".join([repr(name), *(f"{key}={value!r}" for key, value in values.items())])


def _terms(found: Estimate) -> list[dict[str, Any]]:
    largest = sorted(found.terms, key=lambda term: -term.n_bytes)
    return [{"term": t.name, "megabytes": f"{t.n_bytes / 1e6:,.1f}", "where": t.where, "why": t.why} for t in largest]


def _to_be_accepted(name: str) -> bool:
    entry = catalog.MODELS.get(name)
    return bool(entry and entry.terms) and not licences.accepted(name, catalog.MODELS[name].licence)


def _licence(name: str) -> str:
    """Licence and gate in words."""
    entry = catalog.MODELS.get(name)
    if entry is None:
        return "Licence: not in the catalog; read it where the model is from."
    said = f"Licence: {entry.licence}."
    if entry.terms:
        state = "To be accepted once" if _to_be_accepted(name) else "Accepted on this machine"
        said += f" {state}: {entry.terms}"
    elif entry.gated:
        said += " Gated: the hub asks for an account that accepted the terms."
    return text.clean(said, 3000)
