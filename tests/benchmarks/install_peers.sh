#!/bin/sh
# An environment for each peer of peers.txt: they pin other versions of Ray than the harness.
set -e
cd "$(dirname "$0")/../.."
