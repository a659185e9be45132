"""Run notebooks and store what they show: ``python -m docs.generate.run_notebooks NOTEBOOK...``.

Each notebook runs from top to bottom in a folder of its own. Plain text and PNG pictures are stored. Standard
error and progress are not, nor are times and versions, so another run changes only measured numbers and
pixels.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

_TIMEOUT_S = 600  # per cell
_KEPT = ("image/png", "text/plain")
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path, folder: Path) -> NotebookNode:
    """Return the notebook with the outputs of a run in ``folder``.

    Raises:
        CellExecutionError: A cell failed; the message holds its source and traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    with tempfile.TemporaryDirectory() as sockets:  # over TCP, other users of the machine could read along
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        client = NotebookClient(
            notebook,
            km=kernel,
            resources=place,
            timeout=_TIMEOUT_S,
            record_timing=False,
            coalesce_streams=True,  # on a busy machine, the lines that a cell prints arrive one by one
        )
        client.execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [_kept(output) for output in cell.outputs if not _is_passing(output)]
    notebook.metadata = _METADATA
    return nbformat.from_dict(notebook)


def _is_passing(output: NotebookNode) -> bool:
    """Whether an output is of interest during the run only."""
    return output.get("name") == "stderr" or "<progress" in output.get("data", {}).get("text/html", "")


def _kept(output: NotebookNode) -> NotebookNode:
    """An output without the forms that no page shows: Pillow's images also come as JPEG."""
    if "data" in output:
        output.data = {kind: output.data[kind] for kind in _KEPT if kind in output.data}
        output.metadata = {}
    return output


def main() -> None:
    """Run the notebooks that the command line names and write them back."""
    for path in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(run(path, Path(folder)), path)


if __name__ == "__main__":
    main()
