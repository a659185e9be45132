"""The summary that a job prints on a terminal when it ends."""

from lbae.errors import UserError, line_and_exit_code
from lbae.report.summary import print_summary


def printed(capsys, *arguments) -> list[str]:
    print_summary(*arguments)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_summary_of_train_names_encode_as_the_next_command(capsys):
    result = {"out": "/runs/model", "images": 54000, "validation_loss": 0.123456, "history": [{"number": 1}]}
    assert printed(capsys, "train", result, {"data": "a table", "out": "model"}) == [
        "model            /runs/model",
        "images           54,000",
        "validation loss  0.1235",
        "  next: lbae encode --model /runs/model --data 'a table' --out LATENTS",
    ]


def test_the_summary_of_other_jobs_shows_all_short_values(capsys):
    result = {"ok": True, "rows": [1, 2], "bits": {"one": "[b]a"}, "largest": [{"bit": 1}], "already": True}
    assert printed(capsys, "any", result, {}) == [
        "ok        yes",
        "rows      1, 2",
        "bits.one  [b]a",
        "largest   1 entries, listed with --json",
        "          finished by an earlier run; there was nothing to do",
    ]


def test_a_long_command_stays_on_one_line(capsys):
    uri = f"s3://bucket/{'a' * 200}"
    assert printed(capsys, "fit", {"out": uri}, {})[-1] == f"  next: lbae serve --bundle {uri}"


def test_a_strangers_text_cannot_steer_the_terminal(capsys):
    steering = "\x1b]0;title\x07\ud800é"
    assert printed(capsys, "any", {steering: steering}, {}) == [
        "\\x1b]0;title\\x07\\ud800é  \\x1b]0;title\\x07\\ud800é"
    ]
    assert line_and_exit_code(UserError(steering)) == ("\\x1b]0;title\\x07\\ud800é", 2)
