"""Label files: what is written can be read, and every line that cannot be used is named."""

import csv
import io
import json

import pytest

from difal.errors import LabelError
from difal.run.labels import Label, not_predicted, read_labels, to_csv, to_jsonl, to_label_studio

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


def test_classes_without_a_label_are_named_in_a_sentence():
    assert not_predicted(["sky"]) == "sky, which is not predicted"
    assert not_predicted(["sky", "road"]) == "sky, road, which are not predicted"


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


def table(lines, separator=","):
    return "".join(separator.join(map(str, line)) + "\n" for line in lines)


HEAD = ["id", "image", "x", "y", "score", "class_id", "skipped"]
ROWS = [["0-0", "a.png", 3, 4, "0.84", 1, ""], ["0-1", "b/c.png", 0, 19, "-1.5", "", "TRUE"]]
SPREADSHEETS = {
    "decimal commas and semicolons": table([HEAD, *ROWS], ";").replace(".84", ",84").replace("-1.5", "-1,5"),
    "decimal commas in quotes": table([HEAD, *ROWS]).replace("0.84", '"0,84"').replace("-1.5", '"-1,5"'),
    "tabs": table([HEAD, *ROWS], "\t"),
    "bars": table([HEAD, *ROWS], "|"),
    "a line that names the separator": "sep=;\r\n" + table([HEAD, *ROWS], ";"),
    "blank rows": "\n" + table([HEAD, ROWS[0], [""] * 7, ROWS[1]]) + ",,,,,,\n" + "," * 13 + "\n\n",
    "a blank last column": table([[*HEAD, ""], *([*row, ""] for row in ROWS)]),
    "a blank column in between": table([[*HEAD[:4], "", *HEAD[4:]], *([*row[:4], "", *row[4:]] for row in ROWS)]),
    "notes": table([[*HEAD, "note"], [*ROWS[0], "sure"], [*ROWS[1], ""]]),
    "headings of another look": table([["ID", " Image ", "X", "Y", "Score", "Class ID", "SKIPPED"], *ROWS]),
    "numbers as spreadsheets show them": table([HEAD, ["0-0", "a.png", "3.0", "4.0", 0.84, "1.0", "FALSE"], ROWS[1]]),
    "other words for true": table([HEAD, [*ROWS[0][:6], "falsch"], [*ROWS[1][:6], "WAHR"]]),
    "columns in another order": table([HEAD[::-1], *(row[::-1] for row in ROWS)]),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", SPREADSHEETS)
def test_tables_as_spreadsheets_save_them(tmp_path, kind, encoding):
    path = tmp_path / "labels.csv"
    path.write_bytes(SPREADSHEETS[kind].encode(encoding))
    first, second = read_labels(path, CLASSES)
    assert (first.image, first.x, first.y, first.score) == ("a.png", 3, 4, 0.84)
    assert (first.class_id, first.class_name, first.skipped) == (1, "road", False)
    assert (second.place, second.score, second.class_id, second.skipped) == (("b/c.png", 19, 0), -1.5, None, True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEAD, [*ROWS[0][:6], "TRUE"]], "line 2: class 'road' and skipped are both given; clear one of the two"),
        ([HEAD, ROWS[0], [], ROWS[0]], r"line 4 repeats pixel x=3, y=4 of a\.png \(line 2\); delete one of the two"),
        ([[*HEAD, "class_name"], [*ROWS[0], "sky"]], "line 2: class_id 1 and class_name 'sky' disagree"),
        ([HEAD, ["0-0", "a.png", 3, 4, "0", "84", 1, ""]], "line 2 has more cells than headings|line 2: class_id 84"),
        ([[*HEAD, "x"], [*ROWS[0], 9]], "line 1 has two columns 'x'; delete one of the two"),
        (
            [[*HEAD[:5], "class", "skipped"], ROWS[0]],
            "column 'class'; rename it to class_id or class_name",
        ),
        ([[*HEAD[:5], "clas_id", "skipped"], ROWS[0]], "line 1 has the column 'clas_id'; rename it to class_id"),
        (ROWS, "line 1 must be the headings id, image, x, .*; put that line back"),
        ([HEAD, ["0-0", "", 3, 4, 0, 1, ""]], "line 2 lacks 'image'"),
        ([HEAD, ["0-0", "a.png", 3.5, 4, 0, 1, ""]], "line 2: x must be an integer, got '3.5'"),
        ([HEAD, [*ROWS[0][:5], "road", ""]], "line 2: class_id must be a number, got the name 'road'"),
    ],
)
def test_tables_that_contradict_themselves_name_the_line(tmp_path, lines, message):
    path = tmp_path / "labels.csv"
    path.write_text(table(lines))
    with pytest.raises(LabelError, match=message):
        read_labels(path, CLASSES)


def test_a_spreadsheets_own_file(tmp_path):
    (tmp_path / "labels.xlsx").write_bytes(b"PK")
    with pytest.raises(LabelError, match=r"labels\.xlsx is a spreadsheet's own format; save the sheet as CSV"):
        read_labels(tmp_path / "labels.xlsx", CLASSES)


def annotated(label, name=None, **changes):
    """A task as Label Studio exports it, whose point has the class `name`."""
    (task,) = json.loads(to_label_studio([label], "http://host/"))
    (point,) = task["predictions"][0]["result"]
    if name is not None:
        point["value"]["keypointlabels"] = [name]
    return {"id": 7, "data": task["data"], "annotations": [{"result": [point], "lead_time": 3.5, **changes}]}


def test_label_studio_there_and_back(tmp_path):
    path = tmp_path / "export.json"
    skipped = annotated(LABELS[1], "no class fits")
    cancelled = {**annotated(LABELS[2]), "annotations": [{"result": [], "was_cancelled": True}]}
    path.write_text(json.dumps([annotated(LABELS[0], "road", completed_by=3), skipped, cancelled]))
    first, second, third = read_labels(path, CLASSES)
    assert first.place == LABELS[0].place
    assert (first.class_name, first.annotator, first.seconds) == ("road", "labelstudio:3", 3.5)
    assert (second.place, second.skipped) == (LABELS[1].place, True)
    assert (third.place, third.skipped) == (LABELS[2].place, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": 50}, r"the point was moved from x=29, y=0"),
        ({"keypointlabels": ["sky", "road"]}, "two classes for one pixel, sky and road"),
        ({"keypointlabels": ["moon"]}, "'moon' is not a class"),
        ("another", "annotations that disagree, road and sky"),
    ],
)
def test_label_studio_exports_that_cannot_be_used_name_the_task(tmp_path, change, message):
    task = annotated(LABELS[2], "road")
    if change == "another":
        task["annotations"] += annotated(LABELS[2], "sky")["annotations"]
    else:
        task["annotations"][0]["result"][0]["value"] |= change
    (tmp_path / "export.json").write_text(json.dumps([task]))
    with pytest.raises(LabelError, match=rf"export\.json task 7\b.*{message}"):
        read_labels(tmp_path / "export.json", CLASSES)
    (tmp_path / "export.json").write_text('[{"image": "a.png"}]')
    with pytest.raises(LabelError, match="as Label Studio exports under JSON"):
        read_labels(tmp_path / "export.json", CLASSES)
