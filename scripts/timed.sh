#!/usr/bin/env bash
# timed.sh NAME COMMAND…: runs the command and says how long it took and whether it passed.
name=$1
shift
"$@"
code=$?
if [ $code = 0 ]; then result=passed; else result=FAILED; fi
printf '%s: %s in %d s\n' "$name" "$result" "$SECONDS"
exit $code
