"""writers.py: one result, written for whoever wants it. WRITERS names them all.

    json         the result model itself, which grader.py makes
    junit        for CI services: a check that could not run is skipped, a grader error an error
    gradescope   results.json of Gradescope's autograder
    autolab      a report whose last line is Autolab's JSON of scores
    classroom50  classroom50/result/v1, the result.json of a Classroom 50 autograder

None can say "could not run" but JUnit; the others get the reason as text and no points.
"""

import datetime
import json
import os
import re
import xml.etree.ElementTree as xml

from grader import CANNOT_RUN, ERROR, FAILED, PASSED, blamed


def explanation(record):
    """Why a check did not pass, as plain text; "" if it did."""
    if record["verdict"] == PASSED:
        return ""
    if record["verdict"] != FAILED:
        return f"{record['verdict']}: {record.get('why', '')}"
    lines = [f"{label:9} {record[label]}" for label in ("tried", "expected", "got")]
    if blamed(record):
        lines.append(f"because   exercise {blamed(record)} is not written yet")
    lines += [f"exits     {text}" for text in record.get("exits", ())]
    lines.append(f"reread    {record['section']}")
    return "\n".join(lines)


def as_json(result):
    return json.dumps(result, indent=1) + "\n"


def _clean(text):
    """Without the characters that XML 1.0 cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)


def as_junit(result):
    counts = {verdict: sum(record["verdict"] == verdict for record in result["checks"])
              for verdict in (FAILED, ERROR, CANNOT_RUN)}  # fmt: skip
    numbers = {"tests": str(len(result["checks"])), "failures": str(counts[FAILED]), "errors": str(counts[ERROR]),
               "skipped": str(counts[CANNOT_RUN]), "time": str(result["seconds"])}  # fmt: skip
    root = xml.Element("testsuites", {"name": "hvlab", **{key: numbers[key] for key in numbers if key != "skipped"}})
    now = datetime.datetime.now(datetime.timezone.utc)
    suite = xml.SubElement(root, "testsuite", {"name": result["name"], "timestamp": f"{now:%Y-%m-%dT%H:%M:%S}", **numbers})
    properties = xml.SubElement(suite, "properties")
    for name in ("seed", "score", "max"):
        xml.SubElement(properties, "property", {"name": name, "value": str(result[name])})
    kinds = {FAILED: "failure", ERROR: "error", CANNOT_RUN: "skipped"}
    for record in result["checks"]:
        case = xml.SubElement(suite, "testcase", {"classname": f"{result['name']}.{record['exercise']}",
                                                  "name": record["name"], "time": str(record["seconds"])})  # fmt: skip
        if record["verdict"] != PASSED:
            reason = _clean(explanation(record))
            child = xml.SubElement(case, kinds[record["verdict"]], {"message": reason.partition("\n")[0], "type": record["verdict"]})
            child.text = reason
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"


def as_gradescope(result):
    tests = [
        {
            "name": record["title"], "number": record["exercise"], "score": record["score"],
            "max_score": record["points"], "status": "passed" if record["verdict"] == PASSED else "failed",
            "output": explanation(record), "output_format": "text", "visibility": "visible",
        }
        for record in result["checks"]
    ]  # fmt: skip
    return json.dumps({
        "score": result["score"], "execution_time": round(result["seconds"]), "visibility": "visible",
        "output": f"lab {result['lab']}: {result['title']}; {result['verdict']}; seed {result['seed']}",
        "output_format": "text", "tests": tests,
        "extra_data": {"seed": result["seed"], "verdict": result["verdict"]},
    }, indent=1) + "\n"  # fmt: skip


def as_autolab(result):
    """One problem for each exercise; the last line is what Autolab reads."""
    scores, lines = {}, [f"lab {result['lab']}: {result['title']}, seed {result['seed']}"]
    for record in result["checks"]:
        scores[record["exercise"]] = scores.get(record["exercise"], 0) + record["score"]
        lines.append(f"{record['verdict']:13} {record['score']:3}/{record['points']:<3} {record['title']}")
        lines += ["    " + line for line in explanation(record).splitlines()]
    return "\n".join([*lines, json.dumps({"scores": scores})]) + "\n"


def as_classroom50(result):
    """Who, what and where come from the environment of its runner, which stamps what it knows better."""
    known = os.environ
    now = datetime.datetime.now(datetime.timezone.utc)
    tests = [{"test-name": f"{record['exercise']} {record['title']}", "passed": record["verdict"] == PASSED,
              "score": record["score"], "max-score": record["points"]} for record in result["checks"]]  # fmt: skip
    commit = known.get("COMMIT_URL") or "unknown"
    return json.dumps({
        "schema": "classroom50/result/v1",
        "classroom": known.get("CLASSROOM") or "hvlab",
        "assignment": known.get("ASSIGNMENT") or result["name"],
        "submission": known.get("SUBMISSION_TAG") or f"submit/{now:%Y-%m-%dT%H-%M-%SZ}",
        "commit": commit,
        "release": known.get("RELEASE_URL") or commit,
        "review": known.get("REVIEW_URL") or commit,
        "datetime": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "score": result["score"], "max-score": result["max"], "tests": tests,
    }, indent=1) + "\n"  # fmt: skip


WRITERS = {
    "json": (as_json, "our own JSON"),
    "junit": (as_junit, "JUnit XML"),
    "gradescope": (as_gradescope, "Gradescope's results.json"),
    "autolab": (as_autolab, "a report that ends in Autolab's line"),
    "classroom50": (as_classroom50, "Classroom 50's result.json"),
}


def write(name, path, result):
    """Writes RESULT into PATH; "-" is stdout."""
    text = WRITERS[name][0](result)
    if path == "-":
        print(text, end="")
        return
    with open(path, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)
