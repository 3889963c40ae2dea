"""harlequin_screen.py ADAPTER ARGS…: harlequin in a terminal of its own (tmux): the catalog's tree shows the tables and their
columns, a query's rows are on the screen, and so is what is wrong with another."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

SECONDS = 40


class Screen:
    """A terminal without a window."""

    def __init__(self, command, folder):
        self.socket = f"{folder}/tmux"
        env = os.environ | {"HOME": folder, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8", "XDG_CONFIG_HOME": folder,
                            "XDG_DATA_HOME": folder, "XDG_CACHE_HOME": folder, "XDG_STATE_HOME": folder}
        # It holds the command's last screen when that has ended.
        self.tmux("new-session", "-d", "-x", "180", "-y", "50", *command, ";", "set", "remain-on-exit", "on", env=env, cwd=folder)

    def tmux(self, *arguments, **more):
        return subprocess.run(["tmux", "-S", self.socket, "-f", "/dev/null", *arguments], check=True, text=True, capture_output=True, **more).stdout

    def text(self):
        return self.tmux("capture-pane", "-p")

    def keys(self, *names):
        for name in names:
            self.tmux("send-keys", name)

    def types(self, text):
        self.tmux("send-keys", "-l", text)

    def until(self, *wanted, again=None):
        """Waits until all of the texts are on the screen; presses `again` now and then meanwhile."""
        deadline, pressed = time.monotonic() + SECONDS, time.monotonic()
        while True:
            shown = self.text()
            if all(text in shown for text in wanted):
                return shown
            if time.monotonic() > deadline:
                sys.exit(f"{wanted} is not on the screen:\n{shown}")
            if again and time.monotonic() > pressed + 3:
                self.keys(again)
                pressed = time.monotonic()
            time.sleep(0.2)

    def without(self, text):
        deadline = time.monotonic() + SECONDS
        while text in self.text():
            assert time.monotonic() < deadline, f"{text} does not go:\n{self.text()}"
            time.sleep(0.2)

    def close(self):
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], check=False, capture_output=True)


def line(shown, *wanted):
    found = [row for row in shown.splitlines() if all(text in row for text in wanted)]
    assert found, f"no line with {wanted} in\n{shown}"


def edits(screen):
    screen.keys("F2")
    screen.until("Format Query", again="F2")


with tempfile.TemporaryDirectory() as folder:
    screen = Screen([str(pathlib.Path(sys.executable).with_name("harlequin")), "--no-download-tzdata", "--adapter", *sys.argv[1:]], folder)
    try:
        screen.until("▶ millpond", "Query Editor")
        # From the editor into the tree, which opens level by level.
        screen.keys("F6")
        screen.until("Insert Name", again="F6")
        screen.keys("Enter")
        screen.until("▼ millpond", "▶ public")
        shown = screen.text().splitlines()
        top = next(n for n, row in enumerate(shown) if "▼ millpond" in row)
        screen.keys(*["Down"] * (next(n for n, row in enumerate(shown) if "▶ public" in row) - top), "Enter")
        shown = screen.until("▼ public", "car_state", "moving", "telemetry").splitlines()
        public = next(n for n, row in enumerate(shown) if "▼ public" in row)
        screen.keys(*["Down"] * (next(n for n, row in enumerate(shown) if "▶ moving" in row) - public), "Enter")
        tree = screen.until("▼ moving", "car_id", "speed", "price")
        print(tree)

        edits(screen)
        screen.types("SELECT car_id, n, speed, event_time, tags FROM telemetry WHERE n IN (6, 7) ORDER BY n")
        screen.keys("C-j")
        shown = screen.until("(2 Records)", "car-06", "car-07")
        print(shown)
        line(shown, "car-06", " 6 ", "6.5", "2026-11-20T23:00:06.250")
        line(shown, "car-07", " 7 ", "null", "2026-11-20T23:00:07.250")

        # The keys go to the rows once they are there.
        screen.without("Format Query")
        edits(screen)
        screen.keys("C-a")
        screen.until("Run Selection")
        screen.types("SELECT nope FROM telemetry")
        screen.keys("C-j")
        shown = screen.until("column `nope` does not exist")
        print(shown)
    finally:
        screen.close()
