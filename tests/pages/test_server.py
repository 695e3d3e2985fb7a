"""The server of results: the right files to the right askers, pictures made once, nothing else."""

from __future__ import annotations

import http.client
import json
import threading

import pytest

from kvrepro.errors import KvreproError
from kvrepro.pages import server as server_module
from kvrepro.pages.server import ResultsServer

CELL = "p/model/bench/dynts-64/0123abcd"


@pytest.fixture
def results(tmp_path):
    """A profile's page with one finished cell, and what must not be reached."""
    root = tmp_path / "results"
    cell = root / CELL
    cell.mkdir(parents=True)
    (root / "index.html").write_text("all")
    (root / "p" / "index.html").write_text("<p>page")
    (root / "q").mkdir()
    (cell / "manifest.json").write_text("{}")
    (cell / "records.jsonl").write_text("{}\n")
    (root / "p" / ".hidden").mkdir()
    (root / "p" / ".hidden" / "index.html").write_text("secret")
    (tmp_path / "secret.txt").write_text("secret")
    (root / "p" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / "p" / "inside.html").symlink_to(root / "p" / "index.html")
    return root


@pytest.fixture
def served(results):
    with ResultsServer(results, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{server.server_port}", **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_it_listens_on_loopback_alone(served):
    assert served.server_address[0] == "127.0.0.1"
    assert served.url == f"http://127.0.0.1:{served.server_port}/"


@pytest.mark.parametrize(
    ("path", "content", "kind"),
    [
        ("/", "all", "text/html; charset=utf-8"),
        ("/p/?x=1", "<p>page", "text/html; charset=utf-8"),
        ("/p/inside.html", "<p>page", "text/html; charset=utf-8"),
        (f"/{CELL}/records.jsonl", "{}\n", "text/plain; charset=utf-8"),
        (f"/{CELL}/manifest.json", "{}", "application/json"),
        ("/p/%69ndex.html", "<p>page", "text/html; charset=utf-8"),
    ],
)
def test_files_come_with_their_kind(served, path, content, kind):
    status, body, headers = ask(served, path)
    assert (status, body, headers["Content-Type"]) == (200, content, kind)
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'self'" in headers["Content-Security-Policy"]


def test_a_folder_without_its_stroke_is_sent_on(served):
    status, _, headers = ask(served, "/p")
    assert (status, headers["Location"]) == (301, "/p/")
    assert ask(served, "//p")[2]["Location"] == "/p/"


def test_names_of_models_may_hold_what_urls_read_otherwise(served, results):
    (results / "p" / "llama:8b #2?").mkdir()
    (results / "p" / "llama:8b #2?" / "a.html").write_text("found")
    assert ask(served, "/p/llama%3A8b%20%232%3F/a.html")[:2] == (200, "found")


def test_a_name_that_no_file_can_have_is_not_found(served):
    assert ask(served, f"/p/{'x' * 300}/a.html")[:2] == (404, "nothing here\n")


def test_head_has_no_content(served):
    status, body, headers = ask(served, "/p/", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", "7")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/p/../../secret.txt",
        "/p/%2e%2e/%2e%2e/secret.txt",
        "/p/..%2f..%2fsecret.txt",
        "/p/..%5c..%5csecret.txt",
        "/p/link.txt",
        "/p/.hidden/",
        "/p/.hidden/index.html",
        "/p/%2ehidden/index.html",
        "/p/index.html%00",
        f"/{CELL}/",
        "/nothing",
        "http://elsewhere/p/",
    ],
)
def test_what_is_elsewhere_hidden_or_a_listing_is_not_found(served, path):
    status, body, _ = ask(served, path)
    assert status == 404
    assert body == "nothing here\n"


def test_a_profile_without_a_page_names_the_command(served):
    assert ask(served, "/q/")[:2] == (404, "nothing here: `kvrepro summary q` makes its page\n")


def test_only_loopback_names_with_the_port_are_answered(served):
    port = served.server_port
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"[::1]:{port}"):
        assert ask(served, "/", Host=host)[0] == 200
    for host in (f"evil.example:{port}", "127.0.0.1", "localhost:1", f"127.0.0.1.evil.example:{port}", ""):
        status, body, _ = ask(served, "/", Host=host)
        assert (status, body.startswith("asked for as")) == (403, True), host


def test_other_sites_may_link_but_not_load(served):
    assert ask(served, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(served, "/", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="no-cors")[0] == 200
    for site in ("cross-site", "same-site"):
        assert ask(served, "/p/index.html", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors")[0] == 403
        assert ask(served, f"/{CELL}/pictures/a-0.js", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(served, method):
    assert ask(served, "/p/index.html", method)[0] == 501


@pytest.fixture
def drawn(monkeypatch):
    """What was asked of the maker of pictures, which makes those of replies a and b and fails for another."""
    asked = []

    def cell_picture(folder, name, maker):
        asked.append(name)
        if name == "broken-0.js":
            raise KvreproError("no weights\nhere </script>")
        if name == "own-0.js":
            raise ZeroDivisionError("in a score")
        return f"made {name}" if name in ("a-0.js", "b-0.js") else None

    monkeypatch.setattr(server_module, "cell_picture", cell_picture)
    return asked


def test_a_missing_picture_is_made_once_and_kept(served, results, drawn):
    for _ in range(2):
        status, body, headers = ask(served, f"/{CELL}/pictures/a-0.js")
        assert (status, body, headers["Content-Type"]) == (200, "made a-0.js", "text/javascript; charset=utf-8")
    assert drawn == ["a-0.js"]
    assert (results / CELL / "pictures" / "a-0.js").read_text() == "made a-0.js"


def test_pictures_of_results_that_cannot_be_written_stay_in_memory(served, results, drawn, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server_module, "write_atomic", full)
    monkeypatch.setattr(server_module, "PICTURES_IN_MEMORY", 1)
    for name in ("a", "a", "b", "b", "a"):
        assert ask(served, f"/{CELL}/pictures/{name}-0.js")[:2] == (200, f"made {name}-0.js")
    assert drawn == ["a-0.js", "b-0.js", "a-0.js"]


def test_only_replies_of_finished_cells_have_pictures(served, results, drawn):
    assert ask(served, f"/{CELL}/pictures/other-0.js")[0] == 404
    assert drawn == ["other-0.js"]
    for path in ("/p/pictures/a-0.js", f"/{CELL}/pictures/x/a-0.js", f"/{CELL}/../0123abcd/pictures/a-0.js"):
        assert ask(served, path)[0] == 404
    assert drawn == ["other-0.js"]


def test_no_picture_is_written_through_a_link(served, results, drawn, tmp_path):
    (tmp_path / "outside").mkdir()
    (results / CELL / "pictures").symlink_to(tmp_path / "outside")
    assert ask(served, f"/{CELL}/pictures/a-0.js")[0] == 200
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_picture_that_cannot_be_made_says_why_in_one_line(served, drawn, capsys):
    status, body, _ = ask(served, f"/{CELL}/pictures/broken-0.js")
    assert status == 200
    assert body.startswith("kvrepro.picture(")
    assert "<" not in body
    assert json.loads(f"[{body.strip()[16:-2]}]")[-1] == {"error": "Not drawn: no weights here </script>"}
    assert "no weights here" in capsys.readouterr().err


def test_whatever_a_method_raises_is_an_answer(served, drawn, capsys):
    status, body, _ = ask(served, f"/{CELL}/pictures/own-0.js")
    assert (status, "Not drawn: ZeroDivisionError: in a score" in body) == (200, True)
    assert "ZeroDivisionError: in a score" in capsys.readouterr().err


def test_head_sets_no_work_going(served, drawn):
    assert ask(served, f"/{CELL}/pictures/a-0.js", "HEAD")[0] == 404
    assert drawn == []


def test_who_goes_away_leaves_the_picture_to_the_next(served, results, drawn, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    make = server_module.cell_picture

    def slow(*args):
        begun.set()
        assert go_on.wait(20)
        return make(*args)

    monkeypatch.setattr(server_module, "cell_picture", slow)
    gone = http.client.HTTPConnection("127.0.0.1", served.server_port)
    gone.request("GET", f"/{CELL}/pictures/a-0.js", headers={"Host": f"127.0.0.1:{served.server_port}"})
    assert begun.wait(20)
    gone.close()
    go_on.set()
    assert ask(served, f"/{CELL}/pictures/a-0.js")[:2] == (200, "made a-0.js")
    assert drawn == ["a-0.js"]


def test_the_next_free_port_is_taken_unless_one_was_named(served, results, monkeypatch):
    monkeypatch.setattr(server_module, "FIRST_PORT", served.server_port)
    with ResultsServer.at(results) as other:
        assert served.server_port < other.server_port < served.server_port + server_module.PORTS_TRIED
    with pytest.raises(KvreproError, match=f"--port={served.server_port}: Address already in use; give another one"):
        ResultsServer.at(results, served.server_port)
    monkeypatch.setattr(server_module, "PORTS_TRIED", 1)
    with pytest.raises(KvreproError, match="are all in use; give a free one with --port"):
        ResultsServer.at(results)
