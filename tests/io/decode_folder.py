"""Decode every file of a folder in this process, and print per file the outcome and the memory that it took.

The last line counts Pillow's warnings that Python remembers, and names the programs that were started.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from lbae.config import ModelConfig
from lbae.io.images import ImageError, decode_image

STARTS = ("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system")
MODELS = (ModelConfig(), ModelConfig(image_channels=1, padding=2))


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def outcome(data: bytes, model: ModelConfig) -> str:
    """``decoded``, or the text of the ImageError; any other exception ends the process."""
    try:
        image = decode_image(data, model)
    except ImageError as error:
        return str(error)
    assert (image.shape, image.dtype) == (model.image_shape, np.uint8)
    return "decoded"


def main() -> None:
    started: list[str] = []
    sys.addaudithook(lambda event, args: started.append(f"{event} {args}") if event in STARTS else None)
    buffer = io.BytesIO()
    Image.new("L", (9, 9)).save(buffer, "PNG")
    outcome(buffer.getvalue(), MODELS[0])  # imports what decoding needs
    for index, path in enumerate(sorted(Path(sys.argv[1]).iterdir())):
        data = path.read_bytes()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = status("VmRSS")
        found = outcome(data, MODELS[index % 2])
        print(json.dumps({"name": path.name, "outcome": found, "bytes": status("VmHWM") - before}))
    registries = [
        vars(module).get("__warningregistry__", {})
        for module in vars(PIL).values()
        if hasattr(module, "__file__")
    ]
    remembered = sum(key != "version" for registry in registries for key in registry)
    print(json.dumps({"started": started, "remembered": remembered}))


if __name__ == "__main__":
    main()
