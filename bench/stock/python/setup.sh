#!/bin/sh
# A WSGI application of a few lines, as a user of its own.
set -eu
chroot "$1" useradd --uid 1000 --create-home app
cat >"$1/srv/app.py" <<'SERVER'
import getpass, sys
from wsgiref.simple_server import make_server

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"python {sys.version_info.major} says {6 * 7} as {getpass.getuser()}\n".encode()]

make_server("", 8000, app).serve_forever()
SERVER
