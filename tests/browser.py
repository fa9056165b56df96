"""A page of results in headless Chromium: what a reader's browser makes of it, without a network."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=20000", "--dump-dom",
]  # fmt: skip
# Runs `steps`, an async function of the page that returns plain values, once the first case is shown or refused.
PROBE = """<script>
(async () => {
  const wait = (ready) => new Promise((resolve) => {
    const look = () => (ready() ? resolve() : setTimeout(look, 20));
    look();
  });
  const shown = (name) => wait(() => (name ? document.documentElement.dataset.shown === name
    : document.documentElement.dataset.shown || document.querySelector('.message').textContent));
  const steps = async () => { %s };
  let found;
  try { await shown(); found = await steps(); } catch (error) { found = { failed: String(error) }; }
  const page = document.documentElement;
  parent.postMessage({ found, errors: page.dataset.errors || '', width: page.scrollWidth, inside: innerWidth }, '*');
})();
</script></body>"""
FRAME = """<!doctype html><meta charset="utf-8"><body><iframe src="%s" width="%d" height="900"></iframe><script>
addEventListener('message', (event) => { document.body.dataset.found = JSON.stringify(event.data); });
</script></body>"""


def look_at(page: Path, steps: str, scratch: Path, width: int = 1200, address: str = "") -> dict:
    """Open a page in a frame so wide (a window is never narrower than 500 pixels) and run steps in it.

    steps: JavaScript that may await shown(name) and returns plain values; address: what follows the page's own, from
    the # on. Gives `found`, `errors`, the page's `width` when scrolled, and the window's `inside` it.
    """
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE % steps), encoding="utf-8")
    frame = page.with_name("frame.html")
    frame.write_text(FRAME % (html.escape(probed.name + address), width), encoding="utf-8")
    profile = scratch / "profile"
    command = [CHROMIUM, *QUIET, f"--user-data-dir={profile}", f"--window-size={width + 60},1000", frame.as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    finally:
        for path in (probed, frame):
            path.unlink()
        shutil.rmtree(profile, ignore_errors=True)
    match = re.search(r'data-found="([^"]*)"', done.stdout)
    assert match, f"the page gave no answer: {done.stdout[-500:]} {done.stderr[-500:]}"
    return json.loads(html.unescape(match.group(1)))
