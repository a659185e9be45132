import subprocess
import sys

WRITE = """
import sys
from lbae.errors import line_and_exit_code
from lbae.io.storage.location import resolve
try:
    resolve(sys.argv[1] + "/table/part").write_bytes(bytes(100_000))
except OSError as error:
    print(*line_and_exit_code(error))
print(len(resolve(sys.argv[1]).files(temporary=True)))
"""


def test_a_full_disk_error_names_the_file_and_leaves_no_partial_file(tmp_path):
    mount = f'mount -t tmpfs -o size=8k tmpfs {tmp_path} && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    command += [sys.executable, "-c", WRITE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"[Errno 28] No space left on device: '{tmp_path}/table/part' 1\n0\n"
