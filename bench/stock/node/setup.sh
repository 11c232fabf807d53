#!/bin/sh
# A server of a few lines, as a user of its own.
set -eu
chroot "$1" useradd --uid 1000 --create-home node
cat >"$1/srv/server.js" <<'SERVER'
const http = require("http");
http.createServer((request, response) => {
  response.end(`node ${process.versions.node.split(".")[0]} says ${6 * 7} as ${require("os").userInfo().username}\n`);
}).listen(3000);
SERVER
