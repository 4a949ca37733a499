"""Label files: what is written can be read, and every line that cannot be used is named."""

import csv
import io
import json

import pytest

from difal.errors import LabelError
from difal.run.labels import Label, read_labels, to_csv, to_jsonl, to_label_studio

CLASSES = ("sky", "road")
LABELS = [
    Label("0-0", "a.png", 3, 4, 20, 30, 0, 0, 1.5, 1, "road", "me", 2.5),
    Label("0-1", "b/c.png", 0, 19, 20, 30, 0, 1, None, skipped=True),
    Label("0-2", "a.png", 29, 0, 20, 30, 0, 2),
]


@pytest.mark.parametrize(("ending", "write"), [("jsonl", to_jsonl), ("csv", to_csv)])
def test_what_is_written_is_read(tmp_path, ending, write):
    path = tmp_path / f"labels.{ending}"
    path.write_text(write(LABELS))
    assert read_labels(path, CLASSES) == LABELS
    assert [label.answered for label in LABELS] == [True, True, False]


def test_the_fields_are_those_of_the_format():
    wanted = ["id", "image", "x", "y", "height", "width", "round", "rank", "score"]
    wanted += ["class_id", "class_name", "annotator", "seconds", "skipped"]
    assert list(json.loads(to_jsonl(LABELS).splitlines()[0])) == wanted
    assert next(csv.reader(io.StringIO(to_csv(LABELS)))) == wanted


def test_label_studio_tasks_keep_the_pixel():
    tasks = json.loads(to_label_studio(LABELS, "/data/"))
    point = tasks[0]["predictions"][0]["result"][0]
    assert tasks[0]["data"]["image"] == "/data/a.png"
    assert (tasks[0]["data"]["x"], tasks[0]["data"]["y"], tasks[0]["data"]["image_id"]) == (3, 4, "a.png")
    assert (point["value"]["x"], point["value"]["y"]) == pytest.approx((100 * 3.5 / 30, 100 * 4.5 / 20))


def test_a_name_alone_is_an_answer(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"image": "a", "x": 1, "y": 2, "class_name": "road"}\n\n{"image": "a", "x": 2, "y": 2}\n')
    first, second = read_labels(path, CLASSES)
    assert (first.class_id, first.answered, second.answered) == (1, True, False)


GOOD = {"image": "a", "x": 1, "y": 2, "class_id": 0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 must be an object"),
        ({"image": None}, "line 2 lacks 'image'"),
        ({"x": "left"}, "line 2: x must be a number or null, got 'left'"),
        ({"y": 1.5}, r"line 2: y must be an integer, got 1\.5"),
        ({"class_id": 2}, r"line 2: class_id 2 is out of range 0 to 1 \(0 sky, 1 road\).*set skipped to true"),
        ({"class_id": -1}, "line 2: class_id -1 is out of range"),
        ({"class_id": True}, "line 2: class_id must be a number"),
        ({"class_id": "road"}, "line 2: class_id must be a number, got the name 'road'; put names into class_name"),
        ({"class_id": float("nan")}, "line 2: class_id must be a number or null, got nan"),
        ({"seconds": float("inf")}, "line 2: seconds must be a number or null, got inf"),
        ({"class_id": 10**400}, "line 2: class_id must be a number or null, got 10000"),
        ("[" * 100_000, r"line 2 must be an object"),
        ('{"x": 1' + "0" * 5000 + "}", r"line 2 must be an object"),
        ({"class_name": "moon"}, "line 2: class_name 'moon' is not a class; the classes are sky, road"),
        ({"class_name": "road"}, "line 2: class_id 0 and class_name 'road' disagree"),
        ({"skipped": "maybe"}, "line 2: skipped must be true or false, got 'maybe'"),
        ({"class": 1}, "line 2 has the unknown field 'class'"),
        ({}, r"line 2 repeats pixel x=1, y=2 of a \(line 1\)"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path, line, message):
    path = tmp_path / "labels.jsonl"
    text = line if isinstance(line, str) else json.dumps({**GOOD, **line})
    path.write_text(json.dumps(GOOD) + "\n" + text + "\n")
    with pytest.raises(LabelError, match=message):
        read_labels(path, CLASSES)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_files_from_other_systems(tmp_path, encoding):
    """Windows line ends, a byte order mark, a spreadsheet's semicolons."""
    labels = [Label("0-0", "\u00e9t\u00e9 a\u2028b.png", 3, 4, 20, 30, 0, 0, 1.5, 1, "road"), *LABELS[1:]]
    lines = tmp_path / "labels.jsonl"
    lines.write_bytes(to_jsonl(labels).replace("\n", "\r\n").encode(encoding))
    assert read_labels(lines, CLASSES) == labels
    table = tmp_path / "labels.csv"
    table.write_bytes(to_csv(labels).replace(",", ";").replace("\n", "\r\n").encode(encoding))
    assert read_labels(table, CLASSES) == labels
    for path, write in ((lines, to_jsonl), (table, to_csv)):
        path.write_bytes(write(labels).encode("utf-16"))
        assert read_labels(path, CLASSES) == labels
    lines.write_bytes('{"image": "\u00e9t\u00e9"}'.encode("latin-1"))
    with pytest.raises(LabelError, match=r"labels\.jsonl is not UTF-8 text; save it as UTF-8"):
        read_labels(lines, CLASSES)


def test_only_what_was_asked(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(GOOD) + "\n")
    assert len(read_labels(path, CLASSES, {("a", 2, 1)})) == 1
    with pytest.raises(LabelError, match="line 1: pixel x=1, y=2 of a was not asked"):
        read_labels(path, CLASSES, {("a", 1, 2)})
    with pytest.raises(LabelError, match="there is no label file"):
        read_labels(tmp_path / "none", CLASSES)


def test_pictures_to_label_by_keep_an_ending_only_to_differ():
    from difal.run.oracles import _file_names

    assert _file_names(["a.jpg", "b/c.png"]) == {"a.jpg": "a", "b/c.png": "b__c"}
    assert _file_names(["a.jpg", "a.png"]) == {"a.jpg": "a.jpg", "a.png": "a.png"}
    assert _file_names(["v1.2"]) == {"v1.2": "v1.2"}
