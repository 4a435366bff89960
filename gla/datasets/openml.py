"""Data sets of openml.org, fetched once.

scikit-learn fetches into a folder of its own, which is thrown away. What was read there whole is
kept as one `.npz` file in the folder `gla-openml` of scikit-learn's data folder
(`SCIKIT_LEARN_DATA`), so that nothing half-written is ever taken for a data set, and large tables
of text are parsed once.
"""

from __future__ import annotations

import tempfile
import warnings
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

from gla.datasets.arrays import check_inputs, check_labels
from gla.datasets.files import Raw, read_npz, write_npz
from gla.errors import GlaError
from gla.files import os_errors

PREFIX = "openml:"
_FOLDER = "gla-openml"
# scikit-learn says these before it tries again; what comes of it is told anyway.
_RETRIES = r"(?s).*(A network error occurred|Invalid cache)"


def read(name: str) -> Raw:
    """Read a data set that was fetched before, or fetch it.

    Args:
        name: `NAME` or `NAME@VERSION`; without a version, the oldest that is active when it is
            fetched. Capital letters make no difference.

    Raises:
        GlaError: if there is no such data set, the network fails, or it is no classification.
    """
    bare, _, version = name.partition("@")
    if not bare or (version and not version.isdigit()):
        raise GlaError(f"the data set is {PREFIX}{name}", f"{PREFIX}NAME or {PREFIX}NAME@VERSION")
    try:
        from sklearn.datasets import get_data_home
    except ImportError as error:
        raise GlaError(
            f"OpenML data are read by scikit-learn, which cannot be imported ({error})",
            mend="pip install scikit-learn",
        ) from error
    with os_errors("the data folder of scikit-learn (SCIKIT_LEARN_DATA)", "make"):
        folder = Path(get_data_home()) / _FOLDER
        folder.mkdir(exist_ok=True)
    stored = folder / f"{quote(name.lower(), safe='@')}.npz"
    if stored.exists():
        try:
            return read_npz(stored)
        except GlaError as error:
            if isinstance(error.__cause__, PermissionError):
                raise  # its content may be whole
            with os_errors(stored, "delete the damaged"):
                stored.unlink(missing_ok=True)
    raw = _fetch(bare, int(version) if version else "active", folder)
    write_npz(stored, raw)
    return raw


def _fetch(name: str, version: int | str, folder: Path) -> Raw:
    """Fetch and check a data set; whatever happens, nothing is left in the folder."""
    from sklearn.datasets import fetch_openml

    source = PREFIX + name
    with (
        os_errors(folder, "write to"),
        tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as own,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", _RETRIES)
        try:
            bunch = fetch_openml(name, version=version, as_frame=False, n_retries=1, data_home=own)
        except Exception as error:  # answers that are no data set break the parsers in many ways
            reason = str(error).strip().split("\n")[0]
            if not isinstance(error, (OSError, ValueError, ImportError, HTTPException)):
                reason = f"an answer that was not expected, {type(error).__name__} {reason}"
            raise GlaError(
                f"{source} cannot be fetched ({reason})",
                "the name of a data set of openml.org and a way to reach it",
                "check the name and the network, or give the path of an .npz file",
            ) from error
    if bunch.target is None:
        raise GlaError(f"{source} has no default target column", "a classification data set")
    inputs = bunch.data.toarray() if hasattr(bunch.data, "toarray") else bunch.data
    values, _ = check_inputs(source, inputs)
    return Raw([values, check_labels(source, bunch.target, len(values))])
