"""Run the tutorials' notebooks from top to bottom and keep their outputs: ``make notebooks``.

python -m tutorials.site.notebooks [NOTEBOOK …]
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from tutorials.site import NOTEBOOKS

SECONDS_A_CELL = 600

INSTALL = """\
# Where mtd_lens is missing, this installs it from the checkout around the
# notebook. In Colab, upload a checkout, or a .zip of it, and say here where it is.
import importlib.util
import subprocess
import sys

CHECKOUT = "../.."
if importlib.util.find_spec("mtd_lens") is None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, CHECKOUT], check=True)"""
"""The first code cell of every notebook."""

INSTALL_TAG = "install"


class ThisInterpreter(KernelSpecManager):
    """Kernels that run this interpreter, whatever kernels the machine has installed."""

    def get_kernel_spec(self, kernel_name: str) -> Any:
        """The one kernel there is."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def execute(notebook: Any, folder: str | os.PathLike[str]) -> None:
    """Run a notebook's cells in ``folder``, leaving their outputs in it, without progress bars.

    Raises:
        CellExecutionError: A cell raised an error.
    """
    kernel = AsyncKernelManager(kernel_spec_manager=ThisInterpreter())
    client = NotebookClient(
        notebook,
        km=kernel,
        timeout=SECONDS_A_CELL,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(cleanup_kc=True, env=os.environ | {"TQDM_DISABLE": "1"})
    notebook.metadata["language_info"] = {"name": "python"}  # not this machine's version


def with_install_cell(notebook: Any) -> None:
    """Put the cell that installs the package below the title, where it is not there yet."""
    found = [cell for cell in notebook.cells if INSTALL_TAG in cell.metadata.get("tags", ())]
    if not found:
        cell = nbformat.v4.new_code_cell(id=INSTALL_TAG, metadata={"tags": [INSTALL_TAG]})
        first = [cell.cell_type for cell in notebook.cells].index("code")
        notebook.cells.insert(first, cell)
        found = [cell]
    found[0].source = INSTALL


def main(names: list[str]) -> None:
    """Run notebooks, all of them by default, and write them back with their outputs."""
    for path in [Path(name) for name in names] or sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        with_install_cell(notebook)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, folder)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
